// Where everything lies. dagre places the children of a box once, as if all were closed; that a child is open only
// stretches the rows and columns it lies in. So opening one moves nothing past anything else, and costs one small layout.

const BOX = { width: 176, height: 46 };
const STEP = { width: 128, height: 34 };
const PAD = 16, HEAD = 30;

class Layout {
  constructor(tree) { this.tree = tree; this.plans = new Map() }

  // The children's places when all are closed.
  plan(item) {
    if (!this.plans.has(item)) this.plans.set(item, this.place(item));
    return this.plans.get(item);
  }

  place(item) {
    const steps = item.children[0].kind === "step";
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: steps ? "BT" : "TB", nodesep: 22, ranksep: steps ? 26 : 34, edgesep: 12 });
    graph.setDefaultEdgeLabel(() => ({}));
    const place = new Map(item.children.map((child, index) => [child, String(index)]));
    item.children.forEach((child, index) => graph.setNode(String(index), { ...(steps ? STEP : BOX) }));
    const links = item.node >= 0 ? item.backlinks : item.links;
    // What carries relevance makes the shape; a mask that all layers read would pull them apart.
    const shaped = new Set(links.filter((link) => link.carries).flatMap((link) => [link.from, link.to]));
    const drawn = links.filter((link) => link.carries || !shaped.has(link.from) || !shaped.has(link.to));
    drawn.forEach((link) => graph.setEdge(place.get(link.from), place.get(link.to), { weight: link.carries ? 12 : 1 }));
    dagre.layout(graph);
    const boxes = item.children.map((_, index) => graph.node(String(index)));
    const left = Math.min(...boxes.map((box) => box.x - box.width / 2));
    const top = Math.min(...boxes.map((box) => box.y - box.height / 2));
    const routes = drawn.map((link) => graph.edge(place.get(link.from), place.get(link.to)).points);
    const points = [...boxes, ...routes.flat()];
    const least = Math.min(left, ...points.map((point) => point.x));
    points.forEach((point) => { point.x -= least; point.y -= top });
    const width = Math.max(...boxes.map((box) => box.x + box.width / 2), ...routes.flat().map((point) => point.x));
    const height = Math.max(...boxes.map((box) => box.y + box.height / 2));
    return { boxes, routes: new Map(drawn.map((link, index) => [link, routes[index]])), width, height };
  }

  // Sizes from the inside out, then places from the outside in: `at[0]` forward, `at[1]` relevance, rows shared.
  run() {
    this.shown = [];
    this.size(this.tree.root);
    this.settle(this.tree.root, [0, 0], 0);
  }

  size(item) {
    const closed = item.kind === "step" ? STEP : BOX;
    item.widths = [closed.width, closed.width];
    item.height = closed.height;
    if (!item.open || !item.openable) return;
    const plan = this.plan(item);
    item.children.forEach((child) => this.size(child));
    const sides = item.node >= 0 ? [1] : [0, 1]; // a forward node has no inside
    const rows = stretch(plan.boxes.map((box, index) => [box.y, box.height, item.children[index].height]));
    item.rows = rows;
    item.columns = [];
    for (const side of sides) {
      const columns = stretch(plan.boxes.map((box, index) => [box.x, box.width, item.children[index].widths[side]]));
      item.columns[side] = columns;
      item.widths[side] = Math.max(BOX.width, columns(plan.width) + 2 * PAD);
    }
    item.height = rows(plan.height) + HEAD + PAD;
  }

  settle(item, x, y) {
    item.at = x;
    item.y = y;
    this.shown.push(item);
    if (!item.open || !item.openable) return;
    const plan = this.plan(item);
    const top = y - item.height / 2 + HEAD;
    const left = [0, 1].map((side) => item.columns[side] && x[side] - item.columns[side](plan.width) / 2);
    item.map = [0, 1].map((side) =>
      item.columns[side] && ((point) => ({ x: left[side] + item.columns[side](point.x), y: top + item.rows(point.y) })));
    item.children.forEach((child, index) => {
      const xs = [0, 1].map((side) => (item.columns[side] ? left[side] + item.columns[side].centre(index) : x[side]));
      this.settle(child, xs, top + item.rows.centre(index));
    });
  }
}

// A map of one axis: as it is, except where an open box [centre, size] needs more room; never brings things together.
function stretch(boxes) {
  const wide = boxes.filter(([, size, wanted]) => wanted > size);
  const cuts = [...new Set(wide.flatMap(([centre, size]) => [centre - size / 2, centre + size / 2]))].sort((a, b) => a - b);
  const gains = cuts.slice(1).map((end, index) => {
    const start = cuts[index];
    const slopes = wide.filter(([c, s]) => c - s / 2 <= start && c + s / 2 >= end).map(([, s, wanted]) => wanted / s);
    return (end - start) * (Math.max(1, ...slopes) - 1);
  });
  const map = (value) => {
    let result = value;
    for (let index = 0; index < gains.length && value > cuts[index]; index++) {
      result += gains[index] * Math.min(1, (value - cuts[index]) / (cuts[index + 1] - cuts[index]));
    }
    return result;
  };
  map.centre = (index) => {
    const [centre, size] = boxes[index];
    return (map(centre - size / 2) + map(centre + size / 2)) / 2;
  };
  return map;
}
