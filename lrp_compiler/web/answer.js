"use strict";
(() => {
  const { rows, columns } = JSON.parse(document.getElementById("data").textContent);
  const whole = rows.length - 1;
  let pinned = whole;
  const spans = columns.map((column) => {
    const place = document.getElementById(column.part === "answer" ? "answer" : "prompt");
    if (column.space && place.childNodes.length) place.append(" ");
    const span = document.createElement("span");
    span.textContent = column.text;
    if (column.special) span.classList.add("special");
    if (column.first) {
      span.classList.add("first");
      span.setAttribute("aria-description", "first token");
    }
    place.append(span);
    for (let at = 0; at < Math.min(column.breaks, 2); at += 1) place.append(document.createElement("br"));
    if (column.row >= 0) {
      span.classList.add("row");
      span.tabIndex = 0;
      span.setAttribute("role", "button");
      const pin = () => show((pinned = pinned === column.row ? whole : column.row));
      span.addEventListener("mouseenter", () => show(column.row));
      span.addEventListener("focus", () => show(column.row));
      span.addEventListener("mouseleave", () => show(pinned));
      span.addEventListener("blur", () => show(pinned));
      span.addEventListener("click", pin);
      span.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          pin();
        }
      });
    }
    return span;
  });
  const facts = document.getElementById("facts");
  const colour = (value, limit) => {
    const strength = 0.75 * Math.min(1, Math.abs(value) / limit);
    return strength < 0.01 ? "" : `rgba(${value > 0 ? "222,45,38" : "33,102,224"},${strength.toFixed(3)})`;
  };
  function show(number) {
    const row = rows[number];
    spans.forEach((span, at) => {
      span.style.background = colour(row.values[at], row.limit);
      span.title = `${columns[at].text}  ${row.values[at]}`;
      span.classList.toggle("on", columns[at].row === number);
      if (columns[at].row >= 0) span.setAttribute("aria-pressed", String(pinned === columns[at].row));
    });
    const name = document.createElement("b");
    name.textContent = row.name;
    const list = document.createElement("dl");
    row.facts.forEach(([what, value]) => {
      const pair = document.createElement("div");
      const [term, given] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, given.textContent] = [what, value];
      pair.append(term, given);
      list.append(pair);
    });
    facts.replaceChildren(name, list);
    if (pinned !== whole) {
      const back = document.createElement("button");
      back.textContent = "whole answer";
      back.addEventListener("click", () => show((pinned = whole)));
      facts.prepend(back);
    }
    document.documentElement.dataset.row = String(number);
  }
  show(whole);
})();
