import { $, element, format, sum } from "./tools.js";

const SHOWN = 5; // classes in the list
const OFFERED = 50; // suggestions while a class is typed

/** Everything on the page that pictures and sentences have in common. */
export class View {
  #site;

  /** Title, examples and texts; returns what loads each example. */
  open(site, subject, submit) {
    this.#site = site;
    $("title").textContent = document.title = site.title;
    $("lead").textContent = `What it says, and which ${subject.subject} made it say so.`;
    $("ask-title").textContent = subject.question;
    $("ask").hidden = false;
    if (site.output.next) {
      $("what-title").textContent = "Next token";
      $("class-title").textContent = "Explain another token";
    }
    const loaders = site.examples.map((given) => {
      const [content, load] = subject.example(given);
      const button = element("button", { type: "button", onclick: () => submit(load) }, content);
      $("examples").append(button);
      return load;
    });
    $("examples").hidden = !loaders.length;
    $("examples").classList.add(site.kind);
    return loaders;
  }

  progress(loaded, total) {
    $("progress").hidden = false;
    Object.assign($("progress"), { value: loaded, max: total });
    const size = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
    const text = loaded < total ? `Loading the model: ${size(loaded)} of ${size(total)} MB` : "Preparing the model …";
    $("status").setAttribute("aria-live", loaded < total ? "off" : "polite"); // not read aloud at every packet
    this.say(text, "loading");
  }

  ready() {
    $("progress").hidden = true;
    $("status").setAttribute("aria-live", "polite");
    this.say("Ready.", "ready");
  }

  say(text, state) {
    $("status").textContent = text;
    document.documentElement.dataset.state = state;
  }

  fail(error) {
    $("progress").hidden = true;
    $("error").textContent = sentence(error);
    $("error").hidden = false;
    this.say("", "error");
  }

  clearError() {
    $("error").hidden = true;
    $("error").textContent = "";
  }

  label(number) {
    return this.#site.labels?.at(number) || `class ${number}`;
  }

  /** One run: prediction, explanation, and the numbers; `{limit, hint}` says what the colours mean. */
  show(run, { limit, hint }, choose) {
    const total = sum(run.relevance.data);
    if (!Number.isFinite(total)) throw new Error("The relevance is not a number here: try another input.");
    const named = run.target === null ? this.#site.target.text : this.label(run.target);
    $("claim").replaceChildren("Red speaks for, blue against: ", element("b", {}, named));
    $("least").textContent = format(-limit, true);
    $("most").textContent = format(limit, true);
    $("legend-text").textContent = hint;
    this.#list(run, choose);
    this.#facts(run, total, named);
    $("why").hidden = $("what").hidden = false;
    const predicted = this.label(run.prediction);
    const same = run.prediction === run.target;
    this.say(same ? `Predicted and explained: ${named}` : `Predicted: ${predicted} · explained: ${named}`, "done");
  }

  #list(run, choose) {
    const order = [...run.output.keys()].sort((a, b) => run.output[b] - run.output[a]).slice(0, SHOWN);
    if (run.target !== null && !order.includes(run.target)) order.push(run.target);
    const shares = this.#shares(run.output);
    const most = Math.max(...order.map((number) => Math.abs(shares[number])));
    const open = this.#site.target.mode === "index";
    const focused = document.activeElement?.dataset?.number;
    const items = order.map((number) => {
      const explained = number === run.target;
      const bar = element("span", { className: "bar" });
      const length = this.#site.scores === "none" ? shares[number] / most : shares[number];
      bar.style.width = `${100 * Math.max(0, length)}%`;
      const numbers = this.#site.scores === "none" ? "" : percent(shares[number]);
      const parts = [
        bar,
        element("span", { className: "name" }, this.label(number)),
        element("span", { className: "share" }, numbers),
        element("span", { className: "score" }, format(run.output[number])),
      ];
      const row = element(open ? "button" : "div", { className: "class" }, ...parts);
      row.dataset.number = number;
      row.classList.toggle("explained", explained);
      if (open) {
        row.type = "button";
        row.setAttribute("aria-pressed", explained);
        row.title = `Explain ${this.label(number)}`;
        row.addEventListener("click", () => choose(number));
      }
      return element("li", {}, row);
    });
    $("score-name").textContent = this.#site.scores === "none" ? this.#score() : "probability · logit";
    $("classes").replaceChildren(...items);
    if (focused !== undefined) $("classes").querySelector(`[data-number="${focused}"]`)?.focus();
  }

  #facts(run, total, named) {
    const { composite, accounted, target, scores } = this.#site;
    const score = run.target === null ? null : run.output[run.target];
    const probability = scores === "none" || score === null ? null : percent(this.#shares(run.output)[run.target]);
    const facts = [
      ["Explained", named],
      [capital(scores === "none" ? this.#score() : "logit"), score === null ? null : format(score)],
      ["Probability", probability],
      ["Relevance, summed", format(total, true)],
      ["Absorbed by biases and the like", accounted && score !== null ? format(score - total, true) : null],
      ["Composite", composite],
      ["Target", target.text],
      ["Time", `${run.seconds.toFixed(2)} s`],
    ];
    const shown = facts.filter(([, value]) => value !== null);
    $("facts").replaceChildren(
      ...shown.map(([key, value]) => element("div", {}, element("dt", {}, key), element("dd", {}, value))),
    );
  }

  /** What an output is called that stays as it is: a probability, if the file says so. */
  #score() {
    return this.#site.output.score === "logit" ? "score" : this.#site.output.score;
  }

  #shares(output) {
    if (this.#site.scores === "none") return output;
    if (this.#site.scores === "sigmoid") return output.map((logit) => 1 / (1 + Math.exp(-logit)));
    const most = output.reduce((a, b) => Math.max(a, b));
    const powers = output.map((logit) => Math.exp(logit - most));
    const total = sum(powers);
    return powers.map((power) => power / total);
  }

  /** The field for any class, if the file takes one at run time. */
  prepareChoice(choose) {
    const { target, classes } = this.#site;
    $("choose").hidden = target.mode !== "index";
    $("fixed").hidden = target.mode === "index";
    $("fixed").textContent = `What is explained is fixed in this file: ${target.text}.`;
    if (target.mode !== "index") return;
    const field = $("class");
    const entry = (number) => `${this.label(number)} · ${number}`;
    field.addEventListener("input", () => {
      field.setCustomValidity("");
      const wanted = field.value.trim().toLowerCase();
      const found = [];
      for (let number = 0; wanted && number < classes && found.length < OFFERED; number++) {
        if (entry(number).toLowerCase().includes(wanted)) found.push(element("option", { value: entry(number) }));
      }
      $("class-list").replaceChildren(...found);
    });
    $("choose").addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = field.value.trim().toLowerCase();
      let number = Number(/(?:^|· )(\d+)$/.exec(wanted)?.[1] ?? NaN);
      for (let at = 0; at < classes && Number.isNaN(number); at++) {
        if (this.label(at).toLowerCase() === wanted) number = at;
      }
      if (number < classes) {
        field.value = "";
        return choose(number);
      }
      field.setCustomValidity(`There is no such class: take one of the list, or a number from 0 to ${classes - 1}.`);
      return field.reportValidity();
    });
  }
}

/** A probability in per cent, with as many digits as it is worth. */
function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

function sentence(error) {
  const text = String(error?.message ?? error).trim().split("\n")[0];
  if (error instanceof TypeError) return `Something could not be loaded: is the server still there? (${text})`;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
