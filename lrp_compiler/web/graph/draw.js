// The picture: two panes of one canvas. Rows and scale are shared, each pane has its own middle.

const RULE_HUES = {
  epsilon: "#4c78d8", "z-plus": "#e8833a", gamma: "#c65bcf", "gamma-one-sided": "#c65bcf", "alpha-beta": "#d8574c",
  flat: "#8f6d4f", "z-box": "#6a9f3d", "w-square": "#a3a23b", identity: "#2fa084", route: "#8b93a3", uniform: "#d9a514",
  taylor: "#d64f8b", "frozen-divisor": "#6f63d9", signal: "#3aa6c9", rows: "#5f8f3e", pass: "#7d8899", zero: "#a0606b",
  fixed: "#a0606b", magnitude: "#b0762b", full: "#c9922e", user: "#e0559f", seed: "#b88a00", input: "#3f8f5f",
  rebuilt: "#cf6a1c",
};
const SPARE_HUES = ["#5b7fbf", "#b5643c", "#4f9a7a", "#a45aa8", "#8a8a3a"];
const RESOLUTIONS = { kept: "#3d7bea", rebuilt: "#e07b1f", constant: "#8b93a3", elided: "#22a07a" };

class Picture {
  constructor(canvas, state) {
    Object.assign(this, { canvas, state, context: canvas.getContext("2d") });
    this.view = { scale: 1, y: 0, x: [0, 0] };
    this.pending = 0;
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.size = { width: clientWidth, height: clientHeight, ratio };
    this.now();
  }

  pane(side) {
    const half = this.size.width / 2;
    return { left: side * half, right: (side + 1) * half, middle: (side + 0.5) * half };
  }
  toScreen(side, point) {
    const { scale, x, y } = this.view;
    return { x: this.pane(side).middle + (point.x - x[side]) * scale, y: this.size.height / 2 + (point.y - y) * scale };
  }
  toWorld(side, point) {
    const { scale, x, y } = this.view;
    return { x: (point.x - this.pane(side).middle) / scale + x[side], y: (point.y - this.size.height / 2) / scale + y };
  }
  exists(item, side) {
    if (side === 0) return item.kind !== "step" && !(item.kind === "part" && item.node >= 0);
    return item.inside.relevance > 0 || item.inside.rules.size > 0;
  }
  // The box of an item on one side, in the world.
  box(item, side) {
    const height = side === 0 && item.kind === "node" ? BOX.height : item.height;
    return { x: item.at[side], y: item.y, width: item.widths[side], height };
  }
  onScreen(item, side) {
    const box = this.box(item, side);
    const { x, y } = this.toScreen(side, box);
    const [width, height] = [box.width * this.view.scale, box.height * this.view.scale];
    return { left: x - width / 2, top: y - height / 2, width, height };
  }
  // The innermost item at a place of the canvas.
  hit(point) {
    const side = point.x < this.size.width / 2 ? 0 : 1;
    const { shown } = this.state.layout;
    for (let index = shown.length - 1; index >= 0; index--) {
      const item = shown[index];
      if (item === this.state.tree.root || !this.exists(item, side)) continue;
      const box = this.onScreen(item, side);
      if (point.x >= box.left && point.x <= box.left + box.width && point.y >= box.top && point.y <= box.top + box.height) {
        return { item, side, head: point.y - box.top < HEAD * this.view.scale };
      }
    }
    return { item: null, side };
  }

  soon() { this.pending ||= requestAnimationFrame(() => this.now()) }

  now() {
    cancelAnimationFrame(this.pending);
    this.pending = 0;
    if (!this.size || !this.state.layout) return;
    const { context, size } = this;
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => (this.colours[name] ??= style.getPropertyValue(`--${name}`).trim());
    this.colours = {};
    context.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    context.clearRect(0, 0, size.width, size.height);
    for (const side of [0, 1]) {
      const pane = this.pane(side);
      context.save();
      context.beginPath();
      context.rect(pane.left, 0, pane.right - pane.left, size.height);
      context.clip();
      const seen = this.state.layout.shown.filter((item) => this.exists(item, side) && this.inSight(item, side, pane));
      // From far away a box is a dot, and what is in it nothing.
      const tall = (item, least) => this.box(item, side).height * this.view.scale > least;
      const frames = seen.filter((item) => item.open && item.openable && !this.isPlain(item, side));
      for (const item of frames) if (item !== this.state.tree.root && tall(item, 3)) this.frame(item, side);
      for (const item of frames) if (tall(item, 24)) this.edges(item, side);
      for (const item of seen) if ((!item.open || !item.openable || this.isPlain(item, side)) && tall(item, 1)) this.node(item, side);
      context.restore();
    }
    this.divider();
    this.arcs();
    this.state.whereabouts([0, 1].map((side) => this.hit({ x: this.pane(side).middle, y: size.height / 2 }).item));
  }

  isPlain(item, side) { return side === 0 && item.kind === "node" }
  inSight(item, side, pane) {
    const box = this.onScreen(item, side);
    return box.left < pane.right && box.left + box.width > pane.left && box.top < this.size.height && box.top + box.height > 0;
  }

  divider() {
    const { context, size } = this;
    context.strokeStyle = this.colour("line");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(size.width / 2, 0);
    context.lineTo(size.width / 2, size.height);
    context.stroke();
  }

  frame(item, side) {
    const { context } = this, box = this.onScreen(item, side);
    rounded(context, box, 10 * Math.min(1, this.view.scale));
    context.globalAlpha = this.dim(item) ? 0.4 : 1;
    context.fillStyle = this.colour(item.depth % 2 ? "nest" : "nest-2");
    context.fill();
    context.lineWidth = this.isSelected(item) ? 2.5 : 1;
    context.strokeStyle = this.isSelected(item) ? this.colour("accent") : this.colour("line");
    context.stroke();
    if (this.view.scale > 0.25) {
      context.font = `600 ${12 * this.view.scale}px ${FONT}`;
      context.fillStyle = this.colour("soft");
      context.textBaseline = "middle";
      const y = box.top + (HEAD / 2) * this.view.scale;
      const text = side && item.kind === "node" ? this.state.name(item, 1).title + " · " + item.label : item.kind === "part" ? this.state.title(item) : item.label;
      context.fillText(`▾ ${text}`, box.left + 12 * this.view.scale, y, Math.max(20, box.width - 20));
    }
    context.globalAlpha = 1;
  }

  edges(item, side) {
    if (this.isPlain(item, side)) return;
    const steps = item.node >= 0;
    if (side === 0 && steps) return;
    const links = side === 0 ? item.links : item.backlinks;
    const plan = this.state.layout.plan(item);
    const flows = this.state.flows;
    for (const link of links) {
      if (!this.exists(link.from, side) || !this.exists(link.to, side)) continue;
      let route = plan.routes.get(link), flow = 0;
      if (side === 1 && !steps) {
        const forward = item.links.index?.get(link.to)?.get(link.from);
        route = plan.routes.get(forward)?.slice().reverse();
        flow = forward?.flow ?? 0;
      }
      this.edge(item, link, route, side, flow, flows);
    }
    if (side === 0 || steps) return;
    // What relevance passes without a node of the relevance graph.
    for (const link of item.links) {
      if (!link.carries || item.backlinks.index?.get(link.to)?.has(link.from)) continue;
      if (!this.exists(link.from, 1) || !this.exists(link.to, 1)) continue;
      const back = { from: link.to, to: link.from, ends: link.ends, carries: true, untouched: true };
      this.edge(item, back, plan.routes.get(link)?.slice().reverse(), side, link.flow, flows);
    }
  }

  edge(parent, link, route, side, flow, flows) {
    const { context, view } = this;
    const from = this.box(link.from, side), to = this.box(link.to, side);
    const map = parent.map[side];
    const around = !route && Math.abs(from.y - to.y) > 3 * BOX.height;
    const middle = (route ?? []).map(map);
    const start = around ? beside(from, side) : touch(from, middle[1] ?? to, middle[0]);
    const end = around ? beside(to, side) : touch(to, middle.at(-2) ?? from, middle.at(-1));
    const points = [start, ...middle.slice(1, -1), end].map((point) => this.toScreen(side, point));
    const ends = this.state.focusEnds;
    const touched = ends && link.ends.some(([a, b]) => ends.has(a) !== ends.has(b));
    const faded = ends && !touched;
    const share = flows ? Math.min(1, Math.sqrt(Math.abs(flow) / (Math.abs(this.state.seed) || 1))) : 0;
    context.globalAlpha = faded ? 0.2 : touched ? 1 : around ? 0.28 : link.carries ? 0.8 : 0.4;
    context.setLineDash(link.untouched ? [3, 3] : []);
    context.strokeStyle = touched ? this.colour("accent") : share ? this.colour(flow > 0 ? "positive" : "negative") : this.colour("edge");
    context.lineWidth = Math.max(0.6, (1.2 + 4 * share) * Math.min(1, view.scale + 0.25));
    if (around) this.bow(points, side);
    else curve(context, points);
    context.stroke();
    context.setLineDash([]);
    this.arrow(points.at(-1), around ? { x: points[0].x + (side ? 1e3 : -1e3), y: points.at(-1).y } : points.at(-2));
    context.globalAlpha *= 0.55;
    for (const [place, box, at] of [[0, link.from, start], [1, link.to, end]]) {
      if (!box.open || !box.openable || this.isPlain(box, side)) continue;
      const seen = new Set(link.ends.map((pair) => this.state.tree.shown(pair[place])));
      if (seen.size > 16) continue;
      for (const inner of seen) {
        if (!inner.at || !this.exists(inner, side)) continue;
        const target = this.box(inner, side), near = touch(target, at);
        const [a, b] = [this.toScreen(side, at), this.toScreen(side, near)];
        context.beginPath();
        context.moveTo(a.x, a.y);
        context.bezierCurveTo(a.x, (a.y + b.y) / 2, b.x, (a.y + b.y) / 2, b.x, b.y);
        context.stroke();
      }
    }
    context.globalAlpha = 1;
  }

  // Past everything that lies between: outside, on the left of the forward graph and on the right of the relevance graph.
  bow([a, b], side) {
    const out = (side ? 1 : -1) * (Math.min(140, 24 + Math.abs(a.y - b.y) * 0.12)), edge = side ? Math.max(a.x, b.x) : Math.min(a.x, b.x);
    this.context.beginPath();
    this.context.moveTo(a.x, a.y);
    this.context.bezierCurveTo(edge + out, a.y, edge + out, b.y, b.x, b.y);
  }

  arrow(tip, before) {
    const { context, view } = this;
    if (view.scale < 0.3) return;
    const angle = Math.atan2(tip.y - before.y, tip.x - before.x), size = (4 + 2 * context.lineWidth) * Math.min(1.2, view.scale);
    context.fillStyle = context.strokeStyle;
    context.beginPath();
    context.moveTo(tip.x, tip.y);
    context.lineTo(tip.x - size * Math.cos(angle - 0.45), tip.y - size * Math.sin(angle - 0.45));
    context.lineTo(tip.x - size * Math.cos(angle + 0.45), tip.y - size * Math.sin(angle + 0.45));
    context.fill();
  }

  isSelected(item) { return this.state.selected?.item === item }
  dim(item) {
    return Boolean(this.state.found && !this.state.found.shown.has(item));
  }

  node(item, side) {
    const { context, view } = this, box = this.onScreen(item, side), { scale } = view;
    const name = this.state.name(item, side);
    const paint = this.state.paint(item, side);
    const radius = (item.kind === "step" ? 6 : 8) * scale;
    context.globalAlpha = this.dim(item) ? 0.35 : 1;
    if (item.openable && !this.isPlain(item, side) && item.kind !== "node" && scale > 0.2) {
      // A closed box that holds others looks like a stack.
      rounded(context, { ...box, left: box.left + 4 * scale, top: box.top + 4 * scale }, radius);
      context.fillStyle = this.colour("card");
      context.strokeStyle = this.colour("line");
      context.lineWidth = 1;
      context.fill();
      context.stroke();
    }
    rounded(context, box, radius);
    const ghost = side === 1 && item.kind === "node" && !item.openable;
    context.fillStyle = ghost ? this.colour("paper") : this.colour("card");
    context.fill();
    if (paint.fill) {
      context.save();
      context.globalAlpha *= paint.alpha;
      context.fillStyle = paint.fill;
      context.fill();
      context.restore();
    }
    const linked = this.state.focus?.has(item);
    context.setLineDash(ghost ? [4 * scale, 3 * scale] : []);
    context.lineWidth = this.isSelected(item) ? 3 : linked ? 2 : 1;
    context.strokeStyle = this.isSelected(item) || linked ? this.colour("accent") : paint.line ?? this.colour("line");
    context.stroke();
    context.setLineDash([]);
    context.save();
    rounded(context, box, radius);
    context.clip();
    if (paint.stripe) {
      context.fillStyle = paint.stripe;
      context.fillRect(box.left, box.top, 5 * scale, box.height);
    }
    if (paint.mix) {
      let at = box.left;
      for (const [colour, share] of paint.mix) {
        context.fillStyle = colour;
        context.fillRect(at, box.top + box.height - 5 * scale, share * box.width + 0.5, 5 * scale);
        at += share * box.width;
      }
    }
    if (scale > 0.22) this.label(item, box, name, paint.alpha > 0.3 ? ["ink", "ink"] : [ghost ? "soft" : "ink", "soft"]);
    context.restore();
    const hits = this.state.found?.counts.get(item);
    if (hits && item.openable && item.kind !== "node" && scale > 0.2) this.badge(box, String(hits));
    context.globalAlpha = 1;
  }

  label(item, box, name, [ink, soft]) {
    const { context } = this, { scale } = this.view;
    const small = item.kind === "step";
    const [top, room] = [box.top + (small ? 15 : 19) * scale, box.width - 22 * scale];
    context.textBaseline = "alphabetic";
    let used = 0;
    if (name.hint && scale > 0.45) {
      context.font = `500 ${10.5 * scale}px ${FONT}`;
      context.fillStyle = this.colour(soft);
      used = context.measureText(name.hint).width + 8 * scale;
      context.fillText(name.hint, box.left + box.width - used, top);
    }
    context.font = `600 ${(small ? 11.5 : 12.5) * scale}px ${FONT}`;
    context.fillStyle = this.colour(ink);
    context.fillText(fit(context, name.title, room - used), box.left + 13 * scale, top);
    if (scale <= 0.4) return;
    context.font = `${(small ? 10 : 11) * scale}px ${FONT}`;
    context.fillStyle = this.colour(soft);
    context.fillText(fit(context, name.subtitle, room), box.left + 13 * scale, box.top + (small ? 28 : 35) * scale);
  }

  badge(box, text) {
    const { context } = this, { scale } = this.view;
    context.font = `600 ${11 * scale}px ${FONT}`;
    const width = context.measureText(text).width + 12 * scale;
    rounded(context, { left: box.left + box.width - width + 6 * scale, top: box.top - 8 * scale, width, height: 17 * scale }, 8 * scale);
    context.fillStyle = this.colour("accent");
    context.fill();
    context.fillStyle = this.colour("on-accent");
    context.textBaseline = "middle";
    context.fillText(text, box.left + box.width - width + 12 * scale, box.top + 1 * scale);
  }

  // Promises: from the rule that asked, on the right, to what holds the value, on the left.
  arcs() {
    const { context, size } = this;
    const [left, right] = [this.pane(0), this.pane(1)];
    for (const arc of this.state.arcs) {
      const strong = arc.mine;
      if (this.state.selected && !strong) continue;
      const a = this.onScreen(arc.origin, 1), b = this.onScreen(arc.holder, 0);
      const from = { x: Math.min(Math.max(a.left, right.left + 4), right.right), y: a.top + Math.min(a.height, BOX.height * this.view.scale) / 2 };
      const to = { x: Math.max(Math.min(b.left + b.width, left.right - 4), left.left), y: b.top + Math.min(b.height, BOX.height * this.view.scale) / 2 };
      const lane = Object.keys(RESOLUTIONS).indexOf(arc.resolution) * 5 * Math.min(1, this.view.scale);
      from.y += lane;
      to.y += lane;
      
      if (Math.max(from.y, to.y) < 0 || Math.min(from.y, to.y) > size.height) continue;
      context.globalAlpha = strong ? 0.95 : this.state.found ? 0.12 : 0.42;
      context.strokeStyle = RESOLUTIONS[arc.resolution];
      context.lineWidth = (strong ? 2 : 1) + Math.min(2.5, Math.log2(arc.count) * 0.45);
      context.setLineDash(arc.resolution === "elided" ? [2, 4] : arc.resolution === "rebuilt" ? [7, 4] : []);
      const bend = Math.max(40, (from.x - to.x) * 0.4);
      context.beginPath();
      context.moveTo(from.x, from.y);
      context.bezierCurveTo(from.x - bend, from.y, to.x + bend, to.y, to.x, to.y);
      context.stroke();
      context.setLineDash([]);
      context.fillStyle = context.strokeStyle;
      context.beginPath();
      context.arc(to.x, to.y, strong ? 4 : 2.6, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  }
}

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';

function rounded(context, { left, top, width, height }, radius) {
  context.beginPath();
  context.roundRect(left, top, width, height, Math.max(0, Math.min(radius, height / 2, width / 2)));
}

// Where a line that comes from `towards` meets a box: at its top or its bottom, near `hint`.
function touch(box, towards, hint) {
  const below = towards.y > box.y;
  const inset = Math.min(14, box.width / 4);
  const x = hint ? Math.min(Math.max(hint.x, box.x - box.width / 2 + inset), box.x + box.width / 2 - inset) : box.x;
  return { x, y: box.y + (below ? 1 : -1) * (box.height / 2) };
}

const beside = (box, side) => ({ x: box.x + (side ? 1 : -1) * (box.width / 2), y: box.y });

// Through all points, smoothly.
function curve(context, points) {
  context.beginPath();
  context.moveTo(points[0].x, points[0].y);
  if (points.length === 2) {
    const [a, b] = points, bend = (b.y - a.y) / 2;
    context.bezierCurveTo(a.x, a.y + bend, b.x, b.y - bend, b.x, b.y);
    return;
  }
  for (let index = 1; index < points.length - 1; index++) {
    const next = points[index + 1];
    const last = index === points.length - 2;
    const end = last ? next : { x: (points[index].x + next.x) / 2, y: (points[index].y + next.y) / 2 };
    context.quadraticCurveTo(points[index].x, points[index].y, end.x, end.y);
  }
}

const widths = new Map();
function fit(context, text, room) {
  if (text.length * 4 * 1 < room / 2 || context.measureText(text).width <= room) return text;
  const key = `${context.font}|${text}|${Math.round(room)}`;
  if (!widths.has(key)) {
    let end = text.length;
    while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > room) end -= Math.max(1, Math.floor(end / 12));
    if (widths.size > 20000) widths.clear();
    widths.set(key, `${text.slice(0, end)}…`);
  }
  return widths.get(key);
}
