"""The page of the graphs in a browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.viewed import X

import lrp_compiler as lrp
from lrp_compiler.views.graph_data import GraphData


@pytest.fixture(scope="module")
def tools() -> Any:
    """`benchmarks/shown/viewer.py`, where there is a browser and what it is made of."""
    for module in ("playwright", "transformers", "timm", "PIL"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    from benchmarks.shown import viewer as found

    if found.headless.chromium() is None:
        pytest.skip("there is no chromium")
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    return found


@pytest.fixture(scope="module")
def browser(tools: Any) -> Iterator[Any]:
    with tools.headless.browser() as started:
        yield started


@pytest.fixture
def visit(tools: Any, browser: Any, explainer: lrp.Explainer, tmp_path: Path) -> Iterator[Any]:
    explainer.to_html(tmp_path / "graph.html", X, target=1, title="A small net")
    with tools.headless.visit(browser, (tmp_path / "graph.html").as_uri(), viewport=tools.WINDOW) as visited:
        tools.ready(visited)
        yield visited
        assert visited.requests == [visited.address]
        assert not visited.complaints


@pytest.mark.parametrize("width", [390, 1500])
def test_it_opens_legible_and_whole_on_a_phone_too(
    width: int, tools: Any, browser: Any, explainer: lrp.Explainer, tmp_path: Path
) -> None:
    """Nothing is cut at the side, however long the title; names are nine pixels high; the model gives its name."""
    explainer.to_html(tmp_path / "graph.html", X, target=1)
    explainer.to_html(tmp_path / "long.html", X, target=1, title="AVeryLongNameOfAModelForTheClassificationOfSequences")
    for name, title in (("graph", "Net"), ("long", "AVery")):
        viewport = {"width": width, "height": 800}
        with tools.headless.visit(browser, (tmp_path / f"{name}.html").as_uri(), viewport=viewport) as visited:
            tools.ready(visited)
            page = visited.page
            assert page.evaluate("document.documentElement.scrollWidth") == width
            ends = (
                "[...document.querySelectorAll('header *, footer, aside')].map((e) => e.getBoundingClientRect().right)"
            )
            assert max(page.evaluate(ends)) <= width
            assert page.locator("h1").inner_text().startswith(title)
            assert 12.5 * page.evaluate("lrp.app.picture.view.scale") >= 9
            assert page.evaluate("lrp.app.picture.size.height") > 200


def details(visited: Any) -> str:
    """Text of the panel."""
    found: str = visited.page.locator("#details").inner_text()
    return found


@pytest.mark.heavy
def test_a_click_shows_rule_source_and_statistics(visit: Any, explainer: lrp.Explainer) -> None:
    relu = next(node for node in explainer.forward.graph.nodes if "relu" in node.name)
    visit.page.evaluate("(name) => lrp.app.reveal(lrp.app.tree.leaves.find((leaf) => leaf?.label === name))", relu.name)
    visit.page.keyboard.press("Escape")
    box = next(box for box in visit.page.evaluate("lrp.boxes(1)") if box["name"] == relu.name)
    canvas = visit.page.locator("#canvas").bounding_box()

    visit.page.mouse.click(canvas["x"] + box["left"] + box["width"] / 2, canvas["y"] + box["top"] + box["height"] / 2)

    text = details(visit)
    assert relu.name in text
    assert "identity at activation" in text
    assert "R_x = R" in text
    assert "f32[batch, 5, 4]" in text
    assert re.search(r"viewed\.py:\d+: return x \+ torch\.softmax", text)
    entry = next(entry for entry in explainer.audit(X, target=1).entries if entry.node == relu.name)
    shown = re.search(r"\bin\s+(−?[\d.]+)", text)
    assert shown is not None
    # Shown with four digits: rounded by up to 5e-4 of a number that begins with 1.
    assert float(shown[1].replace("−", "-")) == pytest.approx(entry.relevance_in, rel=6e-4)


@pytest.mark.heavy
def test_both_sides_show_every_node_once_and_apart(visit: Any, data: GraphData) -> None:
    visit.page.locator("#weights").check()
    for _ in range(8):
        visit.page.evaluate("lrp.app.layout.shown.forEach((item) => { item.open = item.openable }); lrp.app.layOut()")
    items = visit.page.evaluate(_BOXES)

    leaves = [item for item in items if item["kind"] == "node"]
    steps = [item for item in items if item["kind"] == "step"]
    assert sorted(item["name"] for item in leaves) == sorted(node.name for node in data.forward)
    assert sorted(item["name"] for item in steps) == sorted(node.name for node in data.relevance)
    for item in items:
        siblings = [other for other in items if other["parent"] == item["parent"] and other["key"] > item["key"]]
        for side in range(item["kind"] == "step", 2):
            assert not any(overlap(item["boxes"][side], other["boxes"][side]) for other in siblings), item["name"]


_BOXES = """() => {
  const { shown } = lrp.app.layout;
  const key = new Map(shown.map((item, index) => [item, index]));
  return shown.slice(1).map((item) => ({
    name: item.label, kind: item.kind, key: key.get(item), parent: key.get(item.parent),
    boxes: [0, 1].map((side) => lrp.app.picture.box(item, side)),
  }));
}"""


def overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    """Whether two boxes, given by centre and size, have common ground."""
    gap = 1e-6
    return all(abs(a[c] - b[c]) < (a[s] + b[s]) / 2 - gap for c, s in (("x", "width"), ("y", "height")))


@pytest.mark.heavy
def test_it_can_be_used_with_the_keyboard(visit: Any) -> None:
    keyboard = visit.page.keyboard
    keyboard.press("/")
    keyboard.type("op:softmax rule:taylor")
    hits = visit.page.locator("#hits").inner_text()
    keyboard.press("Enter")
    assert re.fullmatch(r"\d+ found", hits)
    assert "taylor at softmax" in details(visit)
    visit.page.locator("#canvas").focus()
    keyboard.press("t")
    assert "relevance" in visit.page.locator("#said").text_content()
    before = visit.page.evaluate("lrp.app.layout.shown.length")
    keyboard.press("Enter")
    opened = visit.page.evaluate("lrp.app.layout.shown.length")
    assert opened > before
    keyboard.press("ArrowUp")
    assert details(visit).startswith("Relevance node")
    keyboard.press("Escape")
    assert "Explainer" in details(visit)


@pytest.mark.heavy
def test_selecting_a_node_lights_what_it_is_linked_to(visit: Any, explainer: lrp.Explainer) -> None:
    promise = next(row for row in explainer.plan if row.resolution == "kept" and row.origins[0] != row.value)
    origin = promise.origins[0]

    found = visit.page.evaluate(
        """(name) => {
          const { app } = lrp;
          app.reveal(app.tree.leaves.find((leaf) => leaf?.label === name));
          const arcs = app.arcs.filter((arc) => arc.mine && arc.resolution === "kept");
          return arcs.map((arc) => [arc.origin.label, arc.holder.label]);
        }""",
        origin,
    )

    leaves = {row.value for row in explainer.plan}
    assert any(row[0] == origin for row in found)
    if promise.value in leaves and any(row == [origin, promise.value] for row in found):
        return
    shown = visit.page.evaluate(
        "(name) => lrp.app.tree.shown(lrp.app.tree.leaves.find((leaf) => leaf?.label === name)).label", promise.value
    )
    assert [origin, shown] in found


@pytest.mark.heavy
def test_a_page_of_thousands_of_nodes_answers_at_once(tools: Any, browser: Any, tmp_path: Path) -> None:
    made = tools.write_page(tools.NETWORKS["mamba"], tmp_path / "mamba.html", width=16, depth=12)
    found = tools.measured(browser, tmp_path / "mamba.html")

    assert made["nodes"] > 5000
    assert found["load_s"] < 5
    assert max(found["search_ms"], found["expand_ms"], found["jump_ms"]) < 300
    assert found["requests"] == 1
    assert found["requests_elsewhere"] == 0
    assert not found["complaints"]
