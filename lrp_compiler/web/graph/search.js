// Search: methods of the page.

const Searching = {
  index() {
    const { forward, relevance, rules } = this.data;
    const line = (name, op, path, rule, side) => ` ${name} op:${op} in:${path} rule:${rule} ${side} `.toLowerCase();
    this.lines = forward.name.map((name, node) => line(name, forward.op[node], forward.module[node], rules[forward.rule[node]]?.rule ?? "", `forward ${forward.type[node]}`));
    this.stepLines = relevance.name.map((name, step) =>
      line(name, relevance.op[step], forward.module[relevance.explains[step]], rules[relevance.rule[step]]?.rule ?? "", "relevance"));
    this.readers = null;
  },

  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) {
      this.found = null;
    } else {
      const fits = (line) => words.every((word) => line.includes(word));
      const hits = [];
      this.tree.paths.forEach((item, path) => {
        if (path && !item.gone && fits(` ${path} in:${path} ${this.classOf(item)} module `.toLowerCase())) hits.push(item);
      });
      this.lines.forEach((line, node) => fits(line) && hits.push(this.tree.leaves[node] ?? { hidden: node }));
      this.stepLines.forEach((line, step) => fits(line) && hits.push(this.tree.steps[step] ?? { hidden: this.data.relevance.explains[step], step }));
      this.found = { hits, at: -1, shown: new Set(), counts: new Map() };
      this.locate();
    }
    this.listHits();
    this.picture.now();
  },

  locate() {
    const { found, tree } = this;
    found.shown = new Set();
    found.counts = new Map();
    for (const hit of found.hits) {
      const item = hit.kind ? hit : tree.anchors[hit.hidden];
      const shown = tree.shown(item);
      for (const above of shown.ancestors()) found.shown.add(above);
      found.counts.set(shown, (found.counts.get(shown) ?? 0) + 1);
    }
  },

  listHits() {
    const { found } = this, list = byId("results");
    byId("hits").textContent = found ? (found.hits.length ? `${found.hits.length} found` : "nothing found") : "";
    list.hidden = !found?.hits.length;
    if (!found) return list.replaceChildren();
    const { forward, relevance } = this.data;
    list.replaceChildren(...found.hits.slice(0, 100).map((hit, place) => {
      const hidden = hit.hidden !== undefined;
      const [kind, name, where] = hidden && hit.step === undefined ? [forward.op[hit.hidden] === "constant" ? "weight" : "forward", forward.name[hit.hidden], forward.module[hit.hidden]]
        : hidden ? ["relevance", relevance.name[hit.step], forward.module[hit.hidden]]
        : hit.kind === "module" ? ["module", hit.path, ""]
        : hit.kind === "step" ? ["relevance", relevance.name[hit.step], hit.path] : ["forward", hit.label, hit.path];
      return element("li", {}, element("button", { type: "button", onclick: () => this.visit(place) }, element("span", { class: `kind ${kind}` }, kind), element("b", {}, name), element("small", {}, where)));
    }));
  },

  visit(place) {
    let { found } = this;
    if (!found?.hits.length) return;
    found.at = (place + found.hits.length) % found.hits.length;
    let hit = found.hits[found.at];
    if (hit.hidden !== undefined) {
      // The search is made again, and finds the same in the same order.
      this.showWeights(true);
      this.found.at = found.at;
      ({ found } = this);
      hit = found.hits[found.at];
    }
    this.reveal(hit, hit.kind === "step" ? 1 : 0);
    byId("hits").textContent = `${found.at + 1} of ${found.hits.length}`;
    [...byId("results").children].forEach((row, index) => row.classList.toggle("current", index === found.at));
    byId("results").children[found.at]?.scrollIntoView({ block: "nearest" });
  },
};
