// What is known about the selected box, in words and numbers.

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name === "colour") made.style.setProperty("--colour", value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const number = (value, digits = 4) => {
  if (value === undefined || value === null) return "–";
  if (Number.isNaN(value)) return "NaN";
  if (value === 0) return "0";
  const text = Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(Number(value.toPrecision(digits))) : value.toExponential(1);
  return text.replaceAll("-", "−");
};
const bytes = (size) => (size >= 1e6 ? `${(size / 1e6).toFixed(2)} MB` : size >= 1e3 ? `${(size / 1e3).toFixed(1)} kB` : `${size} B`);

class Panel {
  constructor(place, app) { Object.assign(this, { place, app }) }

  show(selected) {
    this.place.replaceChildren(...(selected ? this.about(selected) : this.overview()));
    this.place.parentElement.scrollTop = 0;
  }

  // `text` as a button that goes to a forward or relevance node.
  go(item, text, side, note) {
    return element("button", { class: "node", type: "button", onclick: () => this.app.reveal(item, side) }, text, note ? element("small", {}, note) : null);
  }
  forward(node) {
    const { forward } = this.app.data;
    const leaf = this.app.tree.leaves[node];
    const text = forward.name[node];
    return leaf ? this.go(leaf, text, 0, forward.type[node]) : element("span", { class: "node" }, text, element("small", {}, forward.type[node]));
  }
  step(step) {
    const { relevance } = this.app.data;
    const item = this.app.tree.steps[step];
    return item ? this.go(item, relevance.name[step], 1, relevance.type[step]) : element("span", { class: "node" }, relevance.name[step], element("small", {}, relevance.type[step]));
  }
  list(title, rows, most = 12) {
    if (!rows.length) return null;
    const list = element("ul", { class: "nodes" }, rows.slice(0, most).map((row) => element("li", {}, row())));
    if (rows.length > most) {
      const more = element("button", { class: "more", type: "button", onclick: () => { more.remove(); list.append(...rows.slice(most, 400).map((row) => element("li", {}, row()))) } }, `${rows.length - most} more`);
      return element("section", {}, element("h3", {}, title), list, more);
    }
    return element("section", {}, element("h3", {}, title), list);
  }
  facts(rows) {
    return element("dl", {}, rows.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  }

  crumbs(path) {
    const parts = path ? path.split(".") : [];
    const crumbs = parts.map((part, index) => {
      const item = this.app.tree.at(parts.slice(0, index + 1).join("."));
      return element("button", { type: "button", onclick: () => item && item !== this.app.tree.root && this.app.reveal(item, 0) }, part.replace("@", " @"));
    });
    return element("nav", { class: "crumbs", "aria-label": "Module path" }, crumbs.length ? crumbs.flatMap((crumb, index) => (index ? [" › ", crumb] : [crumb])) : "the model itself");
  }

  formula(rule) {
    if (!rule) return null;
    const colour = this.app.hue(rule.rule);
    const styled = (text) => text.replace(/\s+/g, " ").split(/(`[^`]+`)/).map((part) => (part.startsWith("`") ? element("code", {}, part.slice(1, -1)) : part));
    const title = element("h3", {}, element("b", {}, rule.rule), rule.kind ? ` at ${rule.kind}` : "", rule.options ? element("small", {}, rule.options) : null);
    return element("section", { class: "formula", colour }, title, rule.formula.split(/\n\s*\n/).filter(Boolean).map((text) => element("p", {}, styled(text))));
  }

  books(sums, extra) {
    const { data } = this.app;
    if (!data.books) return null;
    if (!sums) return element("p", { class: "quiet" }, "Relevance does not pass here.");
    const most = Math.max(Math.abs(sums.in), Math.abs(sums.out), ...Object.values(sums.absorbed).map(Math.abs)) || 1;
    const row = (name, value, kind) => element("tr", { class: kind ?? "" }, element("th", { scope: "row" }, name), element("td", {}, number(value, 5)), element("td", { class: "bar" }, bar(value / most)));
    return element("section", {}, element("h3", {}, "Relevance", extra ? element("small", {}, extra) : null), element("table", {},
      row("in", sums.in), row("out", sums.out),
      Object.entries(sums.absorbed).filter(([, share]) => share).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).map(([cause, share]) => row(`absorbed by ${cause}`, share)),
      row("error", sums.error, "error")));
  }

  promises(leaves) {
    const { data, tree } = this.app;
    const has = (node) => leaves.has(tree.anchors[node]);
    const asks = [], holds = [];
    data.promises.forEach((promise) => {
      if (promise.origins.some(has)) asks.push(promise);
      if (leaves.has(tree.leaves[promise.value])) holds.push(promise);
    });
    const row = (promise, others) => () => element("div", { class: "promise", colour: RESOLUTIONS[promise.resolution] },
      element("b", {}, promise.resolution), others.slice(0, 6).map((node) => this.forward(node)), others.length > 6 ? ` and ${others.length - 6} more` : null,
      promise.nbytes ? element("small", {}, bytes(promise.nbytes)) : null,
      promise.resolution === "rebuilt" ? element("small", {}, `by ${promise.chain.length} node${promise.chain.length === 1 ? "" : "s"} from ${promise.args.map((node) => data.forward.name[node]).slice(0, 4).join(", ")}`) : null);
    return [
      this.list(`Asks for ${asks.length} forward value${asks.length === 1 ? "" : "s"}`, asks.map((promise) => row(promise, [promise.value])), 8),
      this.list("Its value is promised to", holds.map((promise) => row(promise, promise.origins)), 8),
    ];
  }

  about({ item, side }) {
    const { data, tree } = this.app;
    const head = (kind, title, open) => element("div", { class: "head" }, element("p", { class: "kind" }, kind), element("h2", {}, title),
      open ? element("button", { type: "button", class: "open", onclick: () => this.app.toggle(item) }, item.open ? "Close" : "Open") : null);
    if (item.kind === "step") return this.aboutStep(item, head);
    const leaves = new Set(this.app.leavesOf(item));
    if (item.kind === "node") return this.aboutNode(item, side, head, leaves);
    const rules = [...item.inside.rules].sort((a, b) => b[1] - a[1]);
    return [
      head(item.kind === "part" ? "Part of a module" : "Module", this.app.title(item), true),
      this.crumbs(item.path),
      this.facts([["class", item.kind === "module" && this.app.classOf(item)], ["forward nodes", String(item.inside.forward)], ["relevance nodes", String(item.inside.relevance)]]),
      this.books(item.books, "of a real run"),
      rules.length ? element("section", {}, element("h3", {}, "Rules"), element("ul", { class: "rules" }, rules.map(([rule, count]) => element("li", { colour: this.app.hue(rule) }, rule, element("small", {}, String(count)))))) : null,
      ...this.promises(leaves),
    ].filter(Boolean);
  }

  aboutNode(item, side, head, leaves) {
    const { data } = this.app, { forward } = data, node = item.node;
    const rule = data.rules[forward.rule[node]];
    return [
      head(`Forward node${forward.role[node] ? ` · ${forward.role[node]}` : ""}`, forward.name[node], item.openable),
      element("pre", {}, forward.call[node]),
      this.formula(rule) ?? element("p", { class: "quiet" }, "Relevance does not pass this node."),
      this.facts([["shape, dtype", forward.type[node]], ["module", this.crumbs(item.path)], ["class", data.modules[forward.module[node]]], ["source", forward.source[node] ? element("code", {}, forward.source[node]) : ""]]),
      this.books(item.books, "of a real run"),
      ...this.promises(leaves),
      rule && !item.openable ? element("p", { class: "quiet" }, "No relevance node explains it: relevance passes as it is.") : null,
      this.list("Explained by", item.children.flatMap((child) => (child.kind === "part" ? child.children : [child])).map((child) => () => this.step(child.step)), 10),
      this.list("Reads", forward.inputs[node].map((operand) => () => this.forward(operand))),
      this.list("Read by", this.app.tree.users[node].map((user) => () => this.forward(user))),
    ].filter(Boolean);
  }

  aboutStep(item, head) {
    const { data, tree } = this.app, { relevance, forward } = data, step = item.step;
    const users = this.app.stepUsers(step);
    return [
      head(`Relevance node${relevance.role[step] ? ` · ${relevance.role[step]}` : ""}`, relevance.name[step], false),
      element("pre", {}, relevance.call[step]),
      this.formula(data.rules[relevance.rule[step]]),
      this.facts([["shape, dtype", relevance.type[step]], ["form", relevance.form[step]], ["explains", this.forward(item.node)], ["module", this.crumbs(item.path)], ["source", forward.source[item.node] ? element("code", {}, forward.source[item.node]) : ""]]),
      this.books(tree.leaves[item.node]?.books, `at ${forward.name[item.node]}`),
      this.list("Reads of the forward graph", relevance.reads[step].map((node) => () => this.forward(node))),
      this.list("Reads", relevance.inputs[step].map((operand) => () => this.step(operand))),
      this.list("Read by", users.map((user) => () => this.step(user))),
    ].filter(Boolean);
  }

  overview() {
    const { data } = this.app, { summary } = data;
    const counts = {};
    data.promises.forEach((promise) => { counts[promise.resolution] = (counts[promise.resolution] ?? 0) + 1 });
    return [
      element("div", { class: "head" }, element("p", { class: "kind" }, "Explainer"), element("h2", {}, data.title)),
      this.facts([["composite", summary.why ? `${summary.composite} (${summary.why})` : summary.composite], ["target", summary.target], ["seed", summary.seed], ["inputs", element("code", {}, summary.inputs.join(", "))], ["relevance of", summary.relevance.join(", ")], ["forward nodes", String(data.forward.name.length)], ["relevance nodes", String(data.relevance.name.length)], ["promises", summary.plan]]),
      data.books ? this.total() : element("p", { class: "quiet" }, "Without statistics: they come with a run (--input, or to_html with inputs)."),
      element("section", {}, element("h3", {}, "How to read it"), element("p", { class: "quiet" },
        "On the left the model as it computes, from top to bottom. On the right, at the same height, what explains it, from bottom to top. Double-click opens a box. A dotted box is a node that relevance passes untouched.")),
      element("p", { class: "quiet" }, Object.entries(summary.versions).map(([name, version]) => `${name} ${version}`).join(" · ")),
    ];
  }

  total() {
    const { books } = this.app.data;
    const sums = { in: books.seed, out: Object.values(books.inputs).reduce((a, b) => a + b, 0), absorbed: books.absorbed, error: books.error };
    return this.books(sums, "seed in, inputs out");
  }
}

function bar(share) {
  const made = element("span", { class: share < 0 ? "negative" : "positive" });
  made.style.width = `${Math.min(1, Math.abs(share)) * 100}%`;
  return made;
}
