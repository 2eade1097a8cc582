import { Engine } from "./engine.js";
import { Picture } from "./picture.js";
import { Sentence } from "./sentence.js";
import { $ } from "./tools.js";
import { View } from "./view.js";

const view = new View();
const engine = new Engine();
let site;
let subject; // knows pictures or sentences
let current; // the last one that was explained: `feeds`, and whatever else showing it takes
let latest = 0; // number of the visitor's last wish: what belongs to an older one is dropped

/** Read what was given, predict, and explain the most probable class. */
function submit(load) {
  wish(async (isLatest) => explain(await load(), null, isLatest));
}

/** Explain another class of the same picture or sentence. */
function choose(number) {
  wish((isLatest) => explain(current, number, isLatest));
}

function wish(work) {
  const turn = ++latest;
  const isLatest = () => turn === latest;
  running = running.then(async () => {
    if (!isLatest()) return;
    try {
      await ready;
      view.clearError();
      await work(isLatest);
    } catch (error) {
      view.fail(error);
    }
  });
}

async function explain(given, chosen, isLatest) {
  const { mode, number } = site.target;
  const open = mode === "index";
  // Without a wish the last top class is a good guess: if it is right again, one run is enough.
  let target = chosen ?? window.lrp?.prediction ?? 0;
  view.say("Computing …", "busy");
  let run = await compute(given.feeds, open ? target : null);
  const scores = last(run.outputs[site.output.name]);
  const prediction = scores.indexOf(scores.reduce((most, score) => Math.max(most, score), -Infinity));
  if (open && chosen === null && prediction !== target) {
    if (!isLatest()) return;
    target = prediction;
    view.say(`Explaining ${view.label(target)} …`, "busy");
    run = await compute(given.feeds, target);
  }
  if (!isLatest()) return;
  const explained = open ? target : mode === "argmax" ? prediction : number;
  const relevance = run.outputs[site.relevance];
  current = given;
  const inputs = given.feeds;
  window.lrp = { site, inputs, output: scores, relevance, target: explained, prediction, seconds: run.seconds };
  view.show(window.lrp, subject.show(relevance, given), choose);
}

function compute(inputs, target) {
  const feeds = { ...inputs };
  if (target !== null) feeds.target = { type: "int64", data: BigInt64Array.of(BigInt(target)), dims: [1] };
  return engine.run(feeds, [site.output.name, site.relevance]);
}

/** The classes' scores: all of `[1, classes]`, or those of the last position of `[1, sequence, classes]`. */
function last({ data, dims }) {
  return data.slice(-dims.at(-1));
}

async function start() {
  const response = await fetch(new URL("site.json", document.baseURI), { cache: "no-cache" });
  if (!response.ok) throw new Error("site.json is missing: this copy of the site is not complete.");
  site = await response.json();
  subject = new (site.kind === "image" ? Picture : Sentence)(site, submit);
  const [first] = view.open(site, subject, submit);
  view.prepareChoice(choose);
  const bytes = site.model.external.reduce((total, file) => total + file.bytes, site.model.bytes);
  const loading = engine.load(site.model, (loaded) => view.progress(loaded, bytes));
  await Promise.all([subject.start(), loading]);
  view.ready();
  if (first && !latest) submit(first);
}

const ready = start();
let running = ready.catch((error) => view.fail(error));
