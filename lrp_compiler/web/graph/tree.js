// The two graphs as one tree: model → modules → (parts of what is too large to be seen at once) → forward nodes →
// the relevance nodes that explain one. Both sides show the same tree, so that what belongs together lies side by side.

const LIMIT = 40; // children that a box shows; more are put into parts, in the order of the graph

class Item {
  constructor(kind, parent, label) {
    Object.assign(this, { kind, parent, label, children: [], links: [], backlinks: [], open: false });
    this.depth = parent ? parent.depth + 1 : 0;
    this.node = -1; // of the forward graph
    this.step = -1; // of the relevance graph
    this.inside = { forward: 0, relevance: 0, rules: new Map() };
    this.books = null;
  }
  get openable() { return this.children.length > 0 }
  *ancestors() { for (let item = this; item; item = item.parent) yield item }
}

class Tree {
  constructor(data, withWeights) {
    this.data = data;
    const { forward, relevance } = data;
    this.hidden = forward.op.map((op, i) => !withWeights && (op === "constant" || !/\[/.test(forward.type[i])));
    this.explained = forward.name.map(() => []);
    // Sizes are no part of the picture, and neither are weights, unless they are asked for.
    relevance.explains.forEach((node, step) => (withWeights || /\[/.test(relevance.type[step])) && this.explained[node].push(step));
    this.users = forward.name.map(() => []);
    forward.inputs.forEach((operands, node) => operands.forEach((operand) => this.users[operand].push(node)));
    this.leaves = new Array(forward.name.length).fill(null);
    this.steps = new Array(relevance.name.length).fill(null);
    this.paths = new Map();
    this.root = this.grow();
    this.anchors = forward.name.map((_, node) => this.anchor(node));
    this.connect();
    if (data.books) this.book();
  }

  grow() {
    const { forward, modules, relevance } = this.data;
    const root = new Item("module", null, this.data.title);
    root.path = "";
    this.paths.set("", root);
    const module = (path) => {
      let item = this.paths.get(path);
      if (!item) {
        const cut = path.lastIndexOf(".");
        const parent = module(cut < 0 ? "" : path.slice(0, cut));
        item = new Item("module", parent, path.slice(cut + 1).replace(/@(\d+)$/, (_, call) => ` · call ${Number(call) + 1}`));
        item.path = path;
        parent.children.push(item);
        this.paths.set(path, item);
      }
      return item;
    };
    forward.module.forEach((plain, node) => {
      const path = forward.call_path[node] || plain;
      const parent = module(path);
      if (this.hidden[node] && !this.explained[node].length) return;
      const leaf = new Item("node", parent, forward.name[node]);
      leaf.node = node;
      leaf.path = path;
      parent.children.push(leaf);
      this.leaves[node] = leaf;
      leaf.children = this.explained[node].map((step) => {
        const item = new Item("step", leaf, relevance.name[step]);
        Object.assign(item, { node, step, path });
        this.steps[step] = item;
        return item;
      });
    });
    this.prune(root);
    this.divide(root);
    this.measure(root);
    root.open = true;
    return root;
  }

  // A module that holds one thing only is not worth a box of its own.
  prune(item) {
    item.children.forEach((child) => child.kind === "module" && this.prune(child));
    item.children = item.children.flatMap((child) => {
      if (child.kind !== "module" || child.children.length > 1) return [child];
      const [only] = child.children;
      child.gone = true;
      if (!only) return [];
      if (only.kind === "module") only.label = `${child.label}.${only.label}`;
      return [only];
    });
    item.children.forEach((child) => { child.parent = item });
  }

  // The item of a module path, or what is left of it.
  at(path) {
    const calls = () => [...this.paths.keys()].find((known) => known.replace(/@\d+/g, "") === path);
    let item = this.paths.get(path) ?? this.paths.get(calls());
    while (item?.gone) item = item.children[0] ?? item.parent;
    return item;
  }

  divide(item) {
    item.children.forEach((child) => this.divide(child));
    if (item.children.length <= LIMIT) return;
    const most = LIMIT ** Math.max(1, Math.ceil(Math.log(item.children.length) / Math.log(LIMIT)) - 1);
    const count = Math.ceil(item.children.length / most);
    const size = Math.ceil(item.children.length / count);
    const parts = Array.from({ length: count }, (_, number) => {
      const part = new Item("part", item, `part ${number + 1} of ${count}`);
      part.children = item.children.slice(number * size, (number + 1) * size);
      Object.assign(part, { node: item.kind === "node" ? item.node : -1, path: item.path });
      part.children.forEach((child) => { child.parent = part });
      this.divide(part);
      return part;
    });
    item.children = parts;
  }

  measure(item) {
    item.depth = item.parent ? item.parent.depth + 1 : 0;
    item.children.forEach((child) => this.measure(child));
    if (item.kind === "step") item.inside = { forward: 0, relevance: 1, rules: new Map() };
    else {
      const inside = { forward: item.kind === "node" ? 1 : 0, relevance: 0, rules: new Map() };
      for (const child of item.children) {
        inside.forward += child.inside.forward;
        inside.relevance += child.inside.relevance;
        for (const [rule, count] of child.inside.rules) inside.rules.set(rule, (inside.rules.get(rule) ?? 0) + count);
      }
      const rule = item.kind === "node" ? this.data.forward.rule[item.node] : -1;
      if (rule >= 0) inside.rules.set(this.data.rules[rule].rule, 1);
      item.inside = inside;
    }
  }

  // What a node that is not drawn is drawn with: the first drawn node that reads it.
  anchor(node) {
    const seen = new Set([node]);
    for (const current of seen) {
      if (this.leaves[current]) return this.leaves[current];
      this.users[current].forEach((user) => seen.add(user));
      if (seen.size > 200) break;
    }
    return this.root;
  }

  // The innermost item that holds both, and its children that they lie in.
  meet(a, b) {
    let [below, under] = [a, b];
    while (below.depth > under.depth) [a, below] = [below, below.parent];
    while (under.depth > below.depth) [b, under] = [under, under.parent];
    while (below !== under) [a, below, b, under] = [below, below.parent, under, under.parent];
    return [below, a, b];
  }

  link(from, to, list) {
    if (!from || !to || from === to) return;
    const [at, a, b] = this.meet(from, to);
    if (a === b || a === at || b === at) return;
    const links = at[list];
    links.index ??= new Map();
    if (!links.index.has(a)) links.index.set(a, new Map());
    const known = links.index.get(a);
    if (!known.has(b)) {
      known.set(b, { from: a, to: b, ends: [], flow: 0, carries: false });
      links.push(known.get(b));
    }
    const link = known.get(b);
    link.ends.push([from, to]);
    const { rule, role } = this.data.forward;
    link.carries ||= from.kind === "step" || (rule[to.node] >= 0 && (rule[from.node] >= 0 || role[from.node].includes("input")));
  }

  connect() {
    const { forward, relevance } = this.data;
    forward.inputs.forEach((operands, node) =>
      operands.forEach((operand) => this.link(this.leaves[operand], this.leaves[node], "links")));
    relevance.inputs.forEach((operands, step) =>
      operands.forEach((operand) => this.link(this.steps[operand], this.steps[step], "backlinks")));
  }

  // Relevance that entered each box from outside, what was absorbed in it, and what is not accounted for.
  book() {
    const { books } = this.data;
    const of = (item) => (item.books ??= { in: 0, out: 0, absorbed: {}, error: 0, passed: false });
    for (const [node, , , absorbed, error] of books.nodes) {
      for (const item of this.anchors[node].ancestors()) {
        const sums = of(item);
        sums.error += error;
        sums.passed = true;
        for (const [cause, share] of Object.entries(absorbed)) sums.absorbed[cause] = (sums.absorbed[cause] ?? 0) + share;
      }
    }
    for (const [node, operand, share] of books.flows) {
      const [from, to] = [this.anchors[node], this.anchors[operand]];
      if (from === to) continue;
      const [at, a, b] = this.meet(from, to);
      for (let item = to; item !== at; item = item.parent) of(item).in += share;
      for (let item = from; item !== at; item = item.parent) of(item).out += share;
      const link = at.links.index?.get(b)?.get(a);
      if (link) link.flow += share;
    }
    const start = this.data.forward.role.findIndex((role) => role.includes("explained"));
    for (const item of this.anchors[start < 0 ? 0 : start].ancestors()) of(item).in += books.seed;
    of(this.root).out = Object.values(books.inputs).reduce((sum, share) => sum + share, 0);
  }

  // What is seen of an item: itself, or the closed box that it lies in.
  shown(item) {
    let seen = item;
    for (const above of item.ancestors()) if (!above.open && above !== item) seen = above;
    return seen;
  }
}
