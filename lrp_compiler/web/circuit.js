"use strict";
(() => {
  const { rows, edges } = JSON.parse(document.getElementById("data").textContent);
  const graph = document.getElementById("graph");
  const facts = document.getElementById("facts");
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("aria-hidden", "true");
  graph.append(svg);
  const nodes = [];
  let pinned = 0;
  rows.forEach((row, number) => {
    const heading = document.createElement("h2");
    const name = document.createElement("span");
    name.textContent = row.name;
    heading.append(name);
    const line = document.createElement("div");
    line.className = "layer";
    for (const node of row.nodes) {
      const at = nodes.length;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = node.label;
      if (node.rest) button.classList.add("rest");
      const value = document.createElement("small");
      value.textContent = node.said;
      button.append(value);
      button.addEventListener("mouseenter", () => show(at));
      button.addEventListener("mouseleave", () => show(pinned));
      button.addEventListener("focus", () => show(at));
      button.addEventListener("blur", () => show(pinned));
      button.addEventListener("click", () => show((pinned = pinned === at ? 0 : at)));
      line.append(button);
      nodes.push({ ...node, row: number, layer: row.name, button });
    }
    graph.append(heading, line);
  });
  const most = rows.map(() => 0);
  for (const [source, , value] of edges) {
    const row = nodes[source].row;
    most[row] = Math.max(most[row], Math.abs(value));
  }
  const lines = edges.map(([source, , value]) => {
    const path = document.createElementNS(NS, "path");
    const share = Math.abs(value) / (most[nodes[source].row] || 1);
    path.setAttribute("class", value >= 0 ? "up" : "down");
    path.setAttribute("stroke-width", (0.8 + 6 * share).toFixed(2));
    path.setAttribute("stroke-opacity", (0.25 + 0.65 * share).toFixed(2));
    svg.append(path);
    return path;
  });
  const draw = () => {
    const origin = graph.getBoundingClientRect();
    const at = nodes.map(({ button }) => {
      const box = button.getBoundingClientRect();
      const x = (box.left + box.right) / 2 - origin.left - graph.clientLeft;
      return { x, top: box.top - origin.top - graph.clientTop, bottom: box.bottom - origin.top - graph.clientTop };
    });
    edges.forEach(([source, target], number) => {
      const [from, to] = [at[target], at[source]];
      const middle = (from.bottom + to.top) / 2;
      lines[number].setAttribute(
        "d",
        `M${from.x} ${from.bottom}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.top}`,
      );
    });
  };
  const list = (title, found, end) => {
    if (!found.length) return [];
    const heading = document.createElement("h2");
    heading.textContent = title;
    const items = document.createElement("ul");
    for (const edge of [...found].sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]))) {
      const item = document.createElement("li");
      const value = document.createElement("span");
      value.textContent = edge[3];
      item.append(`${nodes[edge[end]].layer}: ${nodes[edge[end]].label}`, value);
      items.append(item);
    }
    return [heading, items];
  };
  const show = (chosen) => {
    const node = nodes[chosen];
    const near = new Set([chosen]);
    edges.forEach(([source, target], number) => {
      const own = source === chosen || target === chosen;
      if (own) near.add(source).add(target);
      lines[number].classList.toggle("off", chosen !== 0 && !own);
    });
    nodes.forEach(({ button }, at) => {
      button.classList.toggle("on", at === chosen);
      button.classList.toggle("faint", chosen !== 0 && !near.has(at));
    });
    const name = document.createElement("b");
    name.textContent = `${node.layer}: ${node.label}`;
    facts.replaceChildren(
      name,
      `relevance ${node.said}`,
      ...list("gets from", edges.filter(([source]) => source === chosen), 1),
      ...list("hands on to", edges.filter(([, target]) => target === chosen), 0),
    );
  };
  show(0);
  draw();
  new ResizeObserver(draw).observe(graph);
})();
