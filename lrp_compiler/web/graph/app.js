// The page: state, colours, mouse, keys and search.

const byId = (id) => document.getElementById(id);
const LEGIBLE = 0.72; // of the scale: names are nine pixels high
const MODES = { rule: "rule", relevance: "relevance", absorbed: "absorbed", error: "error" };

// JSON has no NaN; of a run that has one, null stands for it.
const realNumbers = (value) => (value === null ? NaN
  : Array.isArray(value) ? value.map(realNumbers)
  : typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([key, part]) => [key, realNumbers(part)])) : value);

class App {
  constructor(data) {
    this.data = data;
    this.tree = new Tree(data, false);
    this.mode = "rule";
    this.resolutions = new Set(["kept", "rebuilt"]);
    Object.assign(this, { selected: null, focus: null, focusEnds: null, found: null, arcs: [], seed: data.books?.seed ?? 0, flows: Boolean(data.books) });
    this.picture = new Picture(byId("canvas"), this);
    this.panel = new Panel(byId("details"), this);
    this.spare = new Map();
    this.index();
    this.openSome();
    this.controls();
    this.events();
    this.layOut();
    this.panel.show(null);
    this.picture.resize();
    this.closeToRead();
    this.start();
  }

  // ── what is open, and where it lies ────────────────────────────────────────────────────────────────────────────────

  openSome() {
    let boxes = this.tree.root.children.length, level = [this.tree.root];
    while (level.length) {
      const next = level.flatMap((item) => item.children.filter((child) => child.kind === "module"));
      const more = next.reduce((sum, item) => sum + item.children.length, 0);
      if (!next.length || boxes + more > 42) break;
      next.forEach((item) => { item.open = true });
      boxes += more;
      level = next;
    }
  }

  // As many levels as can be read side by side; a phone opens what a wide screen has open.
  closeToRead() {
    while (this.across() < LEGIBLE) {
      const open = this.layout.shown.filter((item) => item.open && item.openable && item !== this.tree.root);
      const deepest = Math.max(...open.map((item) => item.depth));
      if (!open.length) return;
      open.filter((item) => item.depth === deepest).forEach((item) => { item.open = false });
      this.layOut();
    }
  }

  layOut() {
    this.layout ??= new Layout(this.tree);
    this.layout.run();
    if (this.mode !== "rule") {
      const closed = this.layout.shown.filter((item) => !item.open && item.kind !== "step");
      const most = Math.max(0, ...closed.map((item) => Math.abs(this.value(item) ?? 0)));
      // An error is one from a ten-thousandth of all relevance on; below that it is rounding.
      const least = { relevance: Math.abs(this.seed), absorbed: most, error: Math.max(most, 1e-4 * this.data.books.magnitude) };
      this.reference = least[this.mode] || 1;
    }
    this.connect();
    if (this.found) this.locate();
  }

  stepUsers(step) {
    if (!this.readers) {
      this.readers = this.data.relevance.name.map(() => []);
      this.data.relevance.inputs.forEach((operands, reader) => operands.forEach((operand) => this.readers[operand].push(reader)));
    }
    return this.readers[step];
  }

  leavesOf(item) {
    if (item.kind === "step") return [this.tree.leaves[item.node]];
    if (item.node >= 0) return [this.tree.leaves[item.node]];
    return item.children.flatMap((child) => this.leavesOf(child));
  }

  // The arcs that are seen, and what belongs to the selection.
  connect() {
    const { tree, data } = this, shown = new Map();
    const at = (node) => {
      const leaf = tree.anchors[node];
      if (!shown.has(leaf)) shown.set(leaf, tree.shown(leaf));
      return shown.get(leaf);
    };
    const mine = new Set(this.selected ? this.leavesOf(this.selected.item) : []);
    const arcs = new Map();
    for (const promise of data.promises) {
      if (!this.resolutions.has(promise.resolution)) continue;
      const holders = promise.resolution === "rebuilt" && promise.args.length ? promise.args : [promise.value];
      const held = mine.has(tree.anchors[promise.value]);
      for (const node of promise.origins) for (const holding of holders) {
        const [origin, holder] = [at(node), at(holding)];
        if (!origin.at || !holder.at || holder === tree.root || origin === tree.root) continue;
        if (!arcs.has(origin)) arcs.set(origin, new Map());
        const row = arcs.get(origin);
        const key = row.get(holder) ?? {};
        const arc = (key[promise.resolution] ??= { origin, holder, resolution: promise.resolution, count: 0, mine: false });
        arc.count += 1;
        arc.mine ||= held || mine.has(tree.anchors[node]) || mine.has(tree.anchors[holding]);
        row.set(holder, key);
      }
    }
    this.arcs = [...arcs.values()].flatMap((row) => [...row.values()].flatMap((kinds) => Object.values(kinds)));
    this.focus = null;
    this.focusEnds = null;
    if (this.selected) {
      const { item } = this.selected;
      const steps = [...mine].flatMap((leaf) => tree.explained[leaf.node].map((step) => tree.steps[step]));
      this.focus = new Set([item, tree.shown(item), ...[...mine].map((leaf) => tree.shown(leaf))]);
      if (item.kind === "step") this.focus.add(item.parent);
      this.arcs.filter((arc) => arc.mine).forEach((arc) => this.focus.add(arc.origin).add(arc.holder));
      this.focusEnds = new Set(item.kind === "step" ? [item] : [...mine, ...steps]);
    }
  }

  toggle(item, open = !item.open) {
    if (!item.openable || item === this.tree.root || item.open === open) return;
    const before = this.corner(item);
    item.open = open;
    if (!open && this.selected && [...this.selected.item.ancestors()].includes(item)) this.selected.item = item;
    this.layOut();
    const after = this.corner(item);
    const { view } = this.picture;
    view.y += (after.top - before.top) / view.scale;
    for (const side of [0, 1]) view.x[side] += (after.x[side] - before.x[side]) / view.scale;
    if (open) {
      const box = this.picture.onScreen(item, 1), hidden = box.top + box.height + 24 - this.picture.size.height;
      if (hidden > 0 && box.top > 48) view.y += Math.min(hidden, box.top - 48) / view.scale;
    }
    this.picture.now();
    if (this.selected?.item === item) this.panel.show(this.selected);
    this.say(`${this.title(item)} ${open ? "opened" : "closed"}`);
  }
  corner(item) {
    return { top: this.picture.onScreen(item, 1).top, x: [0, 1].map((side) => this.picture.toScreen(side, this.picture.box(item, side)).x) };
  }

  select(item, side = this.selected?.side ?? 0) {
    this.selected = item ? { item, side } : null;
    this.connect();
    this.panel.show(this.selected);
    this.picture.now();
    if (item) this.say(`${side ? "relevance" : "forward"}: ${this.title(item)}, ${Object.values(this.name(item, side)).join(", ")}`);
  }

  reveal(item, side = 0) {
    for (const above of item.ancestors()) if (above !== item) above.open = true;
    this.layOut();
    this.centre(item);
    this.select(item, item.kind === "step" ? 1 : side);
  }

  centre(item) {
    const { view } = this.picture;
    view.scale = Math.max(view.scale, 0.75);
    view.y = item.open ? item.y - item.height / 2 + (this.picture.size.height / view.scale) * 0.3 : item.y;
    view.x = [0, 1].map((side) => item.at[side]);
  }

  // ── views ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  fit() {
    const { root } = this.tree, { size, view } = this.picture;
    view.scale = Math.min(1.2, (size.width / 2 - 40) / Math.max(...root.widths), (size.height - 60) / root.height);
    view.x = [...root.at];
    view.y = root.y + HEAD / 2;
    this.picture.now();
  }

  // The scale at which each graph is as wide as its pane.
  across() { return (this.picture.size.width / 2 - 40) / Math.max(...this.tree.root.widths) }
  collapsed() { return !this.layout.shown.some((item) => item.open && item.openable && item !== this.tree.root) }

  start() {
    this.fit();
    const { view, size } = this.picture;
    const least = this.collapsed() ? LEGIBLE : Math.min(LEGIBLE, this.across());
    if (view.scale < least) {
      view.scale = least;
      view.y = this.tree.root.y - this.tree.root.height / 2 + size.height / least / 2 - 26 / least;
      this.picture.now();
    }
  }

  zoom(factor, point = { x: this.picture.size.width / 4, y: this.picture.size.height / 2 }) {
    const { picture } = this, side = point.x < picture.size.width / 2 ? 0 : 1;
    const before = picture.toWorld(side, point);
    picture.view.scale = Math.min(3, Math.max(0.03, picture.view.scale * factor));
    const after = picture.toWorld(side, point);
    picture.view.y += before.y - after.y;
    picture.view.x[side] += before.x - after.x;
    picture.soon();
  }

  // ── controls ───────────────────────────────────────────────────────────────────────────────────────────────────────

  showWeights(on) {
    const open = new Set([...this.layout.shown].filter((item) => item.open && item.kind === "module").map((item) => item.path));
    byId("weights").checked = on;
    this.tree = new Tree(this.data, on);
    this.tree.paths.forEach((item, path) => { item.open = open.has(path) || item === this.tree.root });
    this.layout = null;
    this.selected = null;
    if (this.found) this.search(byId("query").value);
    this.layOut();
    this.panel.show(null);
    this.start();
  }

  collapse() {
    for (const item of this.layout.shown) if (item !== this.tree.root) item.open = false;
    this.selected = null;
    this.layOut();
    this.panel.show(null);
    this.start();
  }

  controls() {
    const { data } = this, { summary } = data;
    byId("lead").textContent = `${summary.composite} · ${data.forward.name.length + data.relevance.name.length} nodes`;
    const modes = data.books ? Object.keys(MODES) : ["rule"];
    byId("colours").append(...modes.map((mode) => element("label", {}, element("input", { type: "radio", name: "mode", value: mode, checked: mode === this.mode, onchange: () => this.setMode(mode) }), element("span", {}, mode))));
    byId("pane-forward").replaceChildren("Forward graph ↓", element("small", {}, `${data.forward.name.length} nodes`));
    byId("pane-relevance").replaceChildren("Relevance graph ↑", element("small", {}, `${data.relevance.name.length} nodes`));
    const counts = {};
    data.promises.forEach((promise) => { counts[promise.resolution] = (counts[promise.resolution] ?? 0) + 1 });
    byId("promises").replaceChildren(element("span", {}, "Promises"), ...Object.keys(RESOLUTIONS).filter((name) => counts[name]).map((name) =>
      element("label", { class: "chip", colour: RESOLUTIONS[name] }, element("input", { type: "checkbox", value: name, checked: this.resolutions.has(name), onchange: (event) => {
        this.resolutions[event.target.checked ? "add" : "delete"](name);
        this.connect();
        this.picture.now();
      } }), `${name} ${counts[name]}`)));
    this.legend();
  }

  setMode(mode) {
    this.mode = mode;
    this.layOut();
    this.legend();
    this.picture.now();
  }

  legend() {
    const place = byId("legend");
    if (this.mode === "rule") {
      const rules = [...this.tree.root.inside.rules].sort((a, b) => b[1] - a[1]);
      place.replaceChildren(...rules.map(([rule, count]) => element("button", { type: "button", class: "swatch", colour: this.hue(rule), title: `${count} nodes: search for them`, onclick: () => {
        byId("query").value = `rule:${rule} forward`;
        this.search(byId("query").value);
      } }, rule, element("small", {}, String(count)))));
      return;
    }
    const of = { relevance: "relevance that enters", absorbed: "absorbed", error: "not accounted for" }[this.mode];
    place.replaceChildren(element("span", { class: "scale" }, `−${number(this.reference, 3)}`, element("i", {}), `+${number(this.reference, 3)}`), element("span", {}, of));
  }

  // Under each pane's name: what it is in the middle of.
  whereabouts(items) {
    ["forward", "relevance"].forEach((name, side) => {
      const place = byId(`pane-${name}`).lastElementChild;
      const path = items[side] && (items[side].path ?? "");
      const text = path ? path.replaceAll(".", " › ") : `${this.data[name].name.length} nodes`;
      if (place.textContent !== text) place.textContent = text;
    });
  }

  say(text) { byId("said").textContent = text }

  events() {
    const canvas = byId("canvas"), { picture } = this;
    let drag = null;
    const place = (event) => ({ x: event.offsetX, y: event.offsetY });
    canvas.addEventListener("pointerdown", (event) => {
      drag = { ...place(event), moved: false, side: event.offsetX < picture.size.width / 2 ? 0 : 1 };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) {
        canvas.style.cursor = picture.hit(place(event)).item ? "pointer" : "grab";
        return;
      }
      const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      picture.view.x[drag.side] -= dx / picture.view.scale;
      picture.view.y -= dy / picture.view.scale;
      Object.assign(drag, place(event), { moved: true });
      picture.soon();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved) {
        const { item, side, head } = picture.hit(place(event));
        if (item && item.open && !(side === 0 && item.kind === "node") && head && event.offsetX < picture.onScreen(item, side).left + 30) this.toggle(item);
        else this.select(item, side);
      }
      drag = null;
    });
    canvas.addEventListener("dblclick", (event) => {
      const { item } = picture.hit(place(event));
      if (item) this.toggle(item);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.shiftKey) {
        picture.view.y += event.deltaY / picture.view.scale;
        picture.soon();
      } else this.zoom(Math.exp(-event.deltaY * 0.0014), place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && event.target.tagName !== "INPUT") {
        event.preventDefault();
        byId("query").focus();
      }
    });
    byId("query").addEventListener("input", (event) => this.search(event.target.value));
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.found) this.visit(this.found.at + 1);
    });
    byId("query").addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.target.value = "";
        this.search("");
        canvas.focus();
      }
    });
    byId("fit").addEventListener("click", () => this.fit());
    byId("collapse").addEventListener("click", () => this.collapse());
    byId("weights").addEventListener("change", (event) => this.showWeights(event.target.checked));
    new ResizeObserver(() => picture.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => picture.now());
  }

  key(event) {
    const moves = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
    const actions = {
      Enter: () => this.selected && this.toggle(this.selected.item),
      " ": () => this.selected && this.toggle(this.selected.item),
      Escape: () => this.select(null),
      Backspace: () => this.selected?.item.parent !== this.tree.root && this.selected && this.select(this.selected.item.parent),
      t: () => this.other(), n: () => this.found && this.visit(this.found.at + 1), N: () => this.found && this.visit(this.found.at - 1),
      "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.fit(),
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) this.move(moves[event.key]);
    else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
  }

  other() {
    if (!this.selected) return;
    const side = 1 - this.selected.side;
    const { item } = this.selected;
    this.select(item.kind === "step" ? this.tree.leaves[item.node] : item, side);
  }

  // To the nearest box in that direction, on the same side.
  move([dx, dy]) {
    const side = this.selected?.side ?? 0;
    const boxes = this.layout.shown.filter((item) => item !== this.tree.root && this.picture.exists(item, side) && (!item.open || (side === 0 && item.kind === "node")));
    const from = this.selected?.item;
    if (!from?.at) return boxes[0] && this.select(boxes[0], side);
    let best = null, least = Infinity;
    for (const item of boxes) {
      const x = item.at[side] - from.at[side], y = item.y - from.y;
      const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
      if (item === from || along <= 1) continue;
      const far = along + 2 * across;
      if (far < least) [best, least] = [item, far];
    }
    if (!best) return;
    const box = this.picture.onScreen(best, side), { width, height } = this.picture.size;
    if (box.left < side * width / 2 || box.left + box.width > (side + 1) * width / 2 || box.top < 60 || box.top + box.height > height - 60) this.centre(best);
    this.select(best, side);
  }
}

Object.assign(App.prototype, Looks, Searching);
const data = JSON.parse(byId("data").textContent);
if (data.books) data.books = realNumbers(data.books);
const app = new App(data);
// For tests and for the console.
window.lrp = {
  app,
  boxes: (side) => app.layout.shown.filter((item) => item !== app.tree.root && app.picture.exists(item, side))
    .map((item) => ({ name: item.path && item.kind === "module" ? item.path : item.label, kind: item.kind, open: item.open, ...app.picture.onScreen(item, side) })),
};
document.documentElement.dataset.state = "done";
