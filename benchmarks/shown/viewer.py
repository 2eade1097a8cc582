"""The page of `lrp-compiler inspect --html`, made for four networks and used in headless Chromium.

VGG16 and ResNet-50 (`epsilon-plus`), BERT-base (`attnlrp`) and Mamba 130M at 32 tokens (`cp-lrp`), with random weights
(networks/architectures). Measured: seconds until the graphs are drawn, milliseconds until a search, an opened box and a
jump to a hit are on the screen (the slowest of several, by the page's own events), bytes, requests. Pages go to
build/viewer, screenshots and figures (viewer.json) to benchmarks/results. Needs chromium, npm and playwright.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.networks.architectures import (
    ARCHITECTURES,
    LABELS,
    TRANSFORMERS_ENCODER,
    Architecture,
    Vocabulary,
    text,
)
from benchmarks.shown import headless, page

PAGES = BUILD / "viewer"
BERT = text(
    "BERT-base",
    "BertForSequenceClassification",
    "BertConfig",
    vocab_size=Vocabulary(30522),
    **TRANSFORMERS_ENCODER,
    **LABELS,
)
NETWORKS: dict[str, Architecture] = {
    "vgg16": ARCHITECTURES["vgg16"],
    "resnet50": ARCHITECTURES["resnet50"],
    "bert": BERT,
    "mamba": ARCHITECTURES["mamba"],
}
WINDOW = {"width": 1500, "height": 940}
QUERIES = ("m", "mul", "rule:epsilon", "op:add in:1", "relevance", "nothing of the kind")
BOXES = 12
"""How many boxes are opened, those with the most inside first."""

# ── the pages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_page(architecture: Architecture, path: Path, width: int, depth: int | None = None) -> dict[str, Any]:
    """Compile, run and describe one network; returns its counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = architecture.inputs(2)
    explainer = lrp.compile(
        architecture.build(width=width, depth=depth),
        (),
        kwargs=inputs,
        composite=architecture.composite,
        dynamic_shapes=architecture.dynamic_shapes,
    )
    start = time.perf_counter()
    explainer.to_html(path, **inputs, title=architecture.title)
    return {
        "composite": architecture.composite,
        "nodes": sum(node.op != "output" for node in explainer.module.graph.nodes),
        "write_s": round(time.perf_counter() - start, 1),
        "bytes": path.stat().st_size,
    }


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────

DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Two frames on, what was drawn is on the screen."""
SEARCH = f"""async (text) => {{
  const field = document.getElementById("query");
  const start = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input", {{ bubbles: true }}));
  await {DRAWN};
  return performance.now() - start;
}}"""
OPEN = f"""async () => {{
  const closed = lrp.app.layout.shown.filter((item) => item.openable && !item.open);
  const size = (item) => item.inside.forward + item.inside.relevance;
  const item = closed.sort((a, b) => size(b) - size(a))[0];
  if (!item) return null;
  lrp.app.centre(item);
  lrp.app.picture.now();
  const box = lrp.app.picture.onScreen(item, 1), canvas = document.getElementById("canvas");
  const place = canvas.getBoundingClientRect();
  const at = {{ clientX: place.left + box.left + box.width / 2, clientY: place.top + box.top + box.height / 2 }};
  await {DRAWN};
  const start = performance.now();
  canvas.dispatchEvent(new MouseEvent("dblclick", {{ ...at, bubbles: true }}));
  await {DRAWN};
  return {{ milliseconds: performance.now() - start, open: item.open, children: item.children.length }};
}}"""
JUMP = f"""async () => {{
  const start = performance.now();
  document.querySelector("#results li:last-child button").click();
  await {DRAWN};
  return performance.now() - start;
}}"""
DRAW = f"""async () => {{
  const start = performance.now();
  lrp.app.picture.now();
  await {DRAWN};
  return performance.now() - start;
}}"""

EVERYTHING = """() => {
  const start = performance.now(), { app } = lrp;
  for (let before = -1; before !== app.layout.shown.length;) {
    before = app.layout.shown.length;
    for (const item of app.layout.shown) item.open = item.openable;
    app.layOut();
  }
  app.fit();
  return { boxes: app.layout.shown.length - 1, seconds: (performance.now() - start) / 1000 };
}"""


def measured(started: Any, path: Path) -> dict[str, Any]:
    """Seconds and milliseconds of one page, in a browser that has not seen it."""
    start = time.perf_counter()
    with headless.visit(started, path.as_uri(), viewport=WINDOW) as visited:
        ready(visited)
        load = time.perf_counter() - start
        searches = [visited.page.evaluate(SEARCH, query) for query in QUERIES]
        visited.page.evaluate(SEARCH, "mul")
        jump = visited.page.evaluate(JUMP)
        visited.page.evaluate(SEARCH, "")
        opened = [found for _ in range(BOXES) if (found := visited.page.evaluate(OPEN)) is not None]
        if not all(found["open"] for found in opened):
            raise AssertionError(f"{path.name}: a double-click did not open its box.")
        frame = visited.page.evaluate(DRAW)
        everything = visited.page.evaluate(EVERYTHING)
        return {
            "load_s": round(load, 2),
            "search_ms": round(max(searches)),
            "expand_ms": round(max(found["milliseconds"] for found in opened)),
            "expanded": len(opened),
            "jump_ms": round(jump),
            "frame_ms": round(frame),
            "everything_open": {
                "boxes": everything["boxes"],
                "layout_s": round(everything["seconds"], 1),
                "frame_ms": round(visited.page.evaluate(DRAW)),
            },
            "requests": len(visited.requests),
            "requests_elsewhere": len(visited.foreign()),
            "complaints": visited.complaints,
        }


def ready(visited: Any) -> None:
    """Wait until the graphs are drawn."""
    visited.page.wait_for_selector("html[data-state=done]", state="attached", timeout=headless.LONGEST)
    visited.page.evaluate(DRAWN)


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SCENES: dict[str, tuple[str, str, str]] = {
    # picture → network, colours of the page, what is done before
    "viewer_vgg16": (
        "vgg16",
        "light",
        """const conv = lrp.app.tree.leaves.find((item) => item?.label === "conv2d_2");
        lrp.app.reveal(conv, 1);
        lrp.app.toggle(conv)""",
    ),
    "viewer_resnet50": ("resnet50", "dark", "document.querySelector('input[value=relevance]').click()"),
    "viewer_bert": (
        "bert",
        "light",
        """const at = (path) => lrp.app.tree.at(path), self = at("bert.encoder.layer.3.attention.self");
        lrp.app.reveal(self, 1);
        lrp.app.toggle(self);
        const soft = self.children.flatMap((item) => [item, ...item.children]).find((item) =>
          item.kind === "node" && lrp.app.ruleOf(item) === "taylor");
        lrp.app.reveal(soft, 1);
        lrp.app.toggle(soft)""",
    ),
    "viewer_mamba": ("mamba", "dark", ""),
    "viewer_mamba_scan": (
        "mamba",
        "light",
        """lrp.app.reveal(lrp.app.tree.at("backbone.layers.3.mixer"), 1);
        lrp.app.toggle(lrp.app.selected.item);
        const mixer = lrp.app.selected.item;
        lrp.app.select(null);
        lrp.app.picture.view.y = mixer.y - mixer.height / 2 + 400;
        lrp.app.picture.now()""",
    ),
    "viewer_search": (
        "resnet50",
        "dark",
        """document.getElementById("query").value = "rule:z-plus in:layer3 forward";
        lrp.app.search("rule:z-plus in:layer3 forward");
        lrp.app.fit()""",
    ),
}


def draw(started: Any, name: str) -> None:
    """One screenshot."""
    network, scheme, script = SCENES[name]
    with headless.visit(started, (PAGES / f"{network}.html").as_uri(), viewport=WINDOW, color_scheme=scheme) as visited:
        ready(visited)
        visited.page.evaluate(f"() => {{ {script} }}")
        visited.page.evaluate(DRAWN)
        page.save(visited, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1, help="the published width is divided by this")
    width = parser.parse_args().width
    warnings.filterwarnings("ignore")
    on = reporting.console()
    rows: dict[str, Any] = {}
    with reporting.progress(on) as bar, headless.browser() as started:
        task = bar.add_task("", total=2 * len(NETWORKS) + len(SCENES))

        def step(what: str, action: Callable[[], Any]) -> Any:
            bar.update(task, description=what)
            result = action()
            bar.advance(task)
            return result

        for name, network in NETWORKS.items():
            path, title = PAGES / f"{name}.html", network.title
            made = step(f"{title}: compile", lambda network=network, path=path: write_page(network, path, width))
            gc.collect()
            rows[title] = made | step(f"{title}: use", lambda path=path: measured(started, path))
            reporting.write_rows(RESULTS / "viewer.json", rows)
        for name in SCENES:
            step(name, lambda name=name: draw(started, name))
    on.print_json(data=rows)


if __name__ == "__main__":
    main()
