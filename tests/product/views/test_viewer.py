"""The viewer: every node and promise is in its data, the page holds all it needs, and a browser shows it."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.folders import ROOT
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.cli import main
from lrp_compiler.passes.graph.notes import note_of
from lrp_compiler.views.graph_data import GraphData, graph_data
from lrp_compiler.views.model_explorer import graph_collection, node_data
from lrp_compiler.views.viewer import DAGRE

FOREIGN = re.compile(r"""(?:src|href|url|import|fetch)\s*[=(]\s*["']?(?:https?:)?//""", re.IGNORECASE)


class Block(nn.Module):
    """Attention over positions and a residual: branches, a softmax, promises of every kind."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(features), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.norm(x))
        return x + torch.softmax(y @ y.transpose(1, 2), -1) @ torch.relu(y)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(1))


X = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def explainer(net: Net) -> lrp.Explainer:
    batch = torch.export.Dim("batch")
    return lrp.compile(net, (X,), composite="attnlrp", target="index", memory_budget=0.4, dynamic_shapes=({0: batch},))


@pytest.fixture(scope="module")
def loaded(explainer: lrp.Explainer, tmp_path_factory: pytest.TempPathFactory) -> lrp.Explainer:
    file = tmp_path_factory.mktemp("saved") / "net.lrp.pt2"
    explainer.save(file)
    return lrp.load(file)


@pytest.fixture(scope="module")
def data(explainer: lrp.Explainer) -> GraphData:
    return graph_data(explainer, explainer.audit(X, target=1))


@pytest.fixture
def dagre(tmp_path: Path) -> Path:
    """The package of npm, all but empty."""
    for path in DAGRE.files:
        (tmp_path / "dagre" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dagre" / path).write_text(f"{path}\n" if path == "LICENSE" else "var dagre;\n", encoding="utf-8")
    with open(tmp_path / "dagre" / "dist" / "dagre.min.js", "a", encoding="utf-8") as file:
        file.write("//# sourceMappingURL=dagre.js.map\n")
    return tmp_path / "dagre"


# ── what the data holds ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.sampled(4)
@pytest.mark.parametrize("which", ["explainer", "loaded"])
def test_every_node_of_both_graphs_is_there_once(which: str, request: pytest.FixtureRequest) -> None:
    explainer = request.getfixturevalue(which)

    shown = graph_data(explainer)

    forward = [node.name for node in explainer.forward.graph.nodes if node.op != "output"]
    assert [node.name for node in shown.forward] == forward
    joint = {node.name: note_of(node) for node in explainer.module.graph.nodes if node.op != "output"}
    relevance = [node.name for node in shown.relevance]
    assert len(set(relevance)) == len(relevance)
    assert {name for name, note in joint.items() if "explains" in note} <= set(relevance)
    for name in joint.keys() - relevance:
        assert joint[name].get("name", name) in forward
    for node in shown.relevance:
        assert shown.forward[node.explains].name == joint[node.name].get("explains", shown.forward[node.explains].name)
        assert joint[node.name].get("phase") != "forward"


def test_edges_are_those_of_the_graphs(explainer: lrp.Explainer, data: GraphData) -> None:
    for node in explainer.forward.graph.nodes:
        if node.op != "output":
            shown = next(entry for entry in data.forward if entry.name == node.name)
            assert [data.forward[operand].name for operand in shown.inputs] == [o.name for o in node.all_input_nodes]
    joint = {node.name: node for node in explainer.module.graph.nodes}
    for shown in data.relevance:
        read = {note_of(operand).get("name", operand.name) for operand in joint[shown.name].all_input_nodes}
        assert {data.relevance[operand].name for operand in shown.inputs} | {
            data.forward[operand].name for operand in shown.reads
        } == read


def test_every_promise_has_its_ends(explainer: lrp.Explainer, data: GraphData) -> None:
    rows = {(data.forward[row["value"]].name, row["resolution"]): row for row in data.promises}

    assert len(rows) == len(data.promises) == len(explainer.plan)
    assert {resolution for _, resolution in rows} == {"kept", "rebuilt", "constant", "elided"}
    for promise in explainer.plan:
        row = rows[promise.value, promise.resolution]
        for key in ("origins", "args", "chain"):
            assert [data.forward[node].name for node in row[key]] == list(getattr(promise, key))


def test_the_tree_of_modules_is_complete(net: Net, data: GraphData) -> None:
    assert data.modules.keys() == {path for path, module in net.named_modules() if path != "" or module is net}
    assert all(node.module in data.modules for node in data.forward)
    for path, kind in data.modules.items():
        assert kind == type(net.get_submodule(path)).__name__
    weights = {node.name: node.module for node in data.forward if node.op == "constant"}
    assert weights["blocks_0_mix_weight"] == "blocks.0.mix"


def test_relevance_adds_up_to_the_seed(net: Net, explainer: lrp.Explainer, data: GraphData) -> None:
    books = data.books
    assert books is not None
    logits = net(X)[:, 1].sum().item()
    assert books["seed"] == pytest.approx(logits, rel=1e-5)
    arrived = explainer(X, target=1).relevance["x"].sum().item()
    into = sum(share for _, operand, share in books["flows"] if data.forward[operand].role == "input")
    assert into == pytest.approx(arrived, rel=2e-6)
    absorbed = sum(share for _, _, _, causes, _ in books["nodes"] for share in causes.values())
    assert into + absorbed == pytest.approx(logits, rel=1e-5)
    entered = dict.fromkeys(range(len(data.forward)), 0.0)
    for _, operand, share in books["flows"]:
        entered[operand] += share
    for node, relevance_in, *_ in books["nodes"]:
        if "explained" not in data.forward[node].role:
            assert entered[node] == pytest.approx(relevance_in, rel=1e-9, abs=1e-12)


def test_a_node_says_what_explains_it_and_where_it_comes_from(data: GraphData) -> None:
    linear = next(node for node in data.forward if node.module == "blocks.1.mix" and node.op == "linear")
    rule = data.rules[linear.rule]

    assert (rule["rule"], rule["kind"], rule["options"]) == ("epsilon", "linear", "epsilon = 0.0")
    assert "Wᵀ" in rule["formula"]
    assert "Args:" not in rule["formula"]
    assert linear.type == "f32[batch, 5, 4]"
    place, code = linear.source.split(": ", 1)
    file, line = place.split(":")
    assert file == Path(__file__).name
    assert Path(__file__).read_text(encoding="utf-8").splitlines()[int(line) - 1].strip() == code
    assert code == "y = self.mix(self.norm(x))"


def test_a_rule_of_ones_own_shows_its_docstring() -> None:
    def evenly(op: Any, relevance: Any) -> Any:
        """All positions share alike."""
        return lrp.total(op.total(relevance).sum(1, keepdim=True).expand(op.shape("0")) / op.shape("0")[1])

    mine = lrp.Composite("mine", (lrp.Entry("*", evenly, path="blocks.0"), *lrp.composites.attnlrp().entries))
    torch.manual_seed(0)

    shown = graph_data(lrp.compile(Net().eval(), (X,), composite=mine))

    assert "All positions share alike." in {rule["formula"] for rule in shown.rules}


def test_a_file_loses_nothing_of_it(explainer: lrp.Explainer, loaded: lrp.Explainer) -> None:
    before, after = graph_data(explainer), graph_data(loaded)
    rows = {node.name: node for node in before.forward}

    for node in after.forward:
        assert (node.op, node.type, node.module, node.source) == (
            rows[node.name].op,
            rows[node.name].type,
            rows[node.name].module,
            rows[node.name].source,
        )
        assert (node.rule < 0) == (rows[node.name].rule < 0)
    assert sorted(rule["formula"] for rule in after.rules) == sorted(rule["formula"] for rule in before.rules)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_holds_all_that_it_needs(explainer: lrp.Explainer, dagre: Path, tmp_path: Path) -> None:
    evil = '</script><script>alert("x")</script>'
    explainer.to_html(tmp_path / "graph.html", X, target=1, title=evil, dagre=dagre)

    page = (tmp_path / "graph.html").read_text(encoding="utf-8")
    assert evil not in page
    assert "/* dagre\nLICENSE\n*/" in page
    assert "sourceMappingURL" not in page
    assert not FOREIGN.search(page)
    assert str(ROOT) not in page
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval\\(", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    held = json.loads(found[1])
    assert held["title"] == evil
    assert len(held["forward"]["name"]) == len(list(explainer.forward.graph.nodes)) - 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_explainer_makes_the_same_page(explainer: lrp.Explainer, dagre: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        explainer.to_html(tmp_path / name, X, target=0, dagre=dagre)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_that_is_no_number_makes_a_page_all_the_same(
    explainer: lrp.Explainer, dagre: Path, tmp_path: Path
) -> None:
    explainer.to_html(tmp_path / "graph.html", X * torch.nan, target=1, dagre=dagre)

    assert '"books":{"seed":null' in (tmp_path / "graph.html").read_text(encoding="utf-8")


def test_a_wrong_package_or_input_is_said_to_be_wrong(explainer: lrp.Explainer, dagre: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unpacked npm package @dagrejs/dagre"):
        explainer.to_html(tmp_path / "graph.html", dagre=tmp_path)
    with pytest.raises(InputError):
        explainer.to_html(tmp_path / "graph.html", X[..., :2], target=1, dagre=dagre)
    assert not (tmp_path / "graph.html").exists()


def test_the_command_writes_both_files(
    explainer: lrp.Explainer, dagre: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explainer.save(tmp_path / "net.lrp.pt2")
    np.save(tmp_path / "x.npy", X.numpy())
    page, graph = tmp_path / "graph.html", tmp_path / "graph.json"
    run = ["--input", str(tmp_path / "x.npy"), "--target", "1", "--dagre", str(dagre)]

    code = main(
        ["inspect", str(tmp_path / "net.lrp.pt2"), "--html", str(page), "--model-explorer", str(graph), *run, "--json"]
    )

    assert code == 0
    written = [Path(file["path"]) for file in json.loads(capsys.readouterr().out)["files"]]
    assert written == [page, graph, tmp_path / "graph.relevance.json"]
    assert all(file.is_file() for file in written)
    found = re.search(r'"books":\{"seed":([-\d.e]+)', page.read_text(encoding="utf-8"))
    assert found is not None
    assert float(found[1]) == pytest.approx(explainer.audit(X, target=1).seed)


def test_the_command_says_what_an_onnx_file_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.lrp.onnx").write_bytes(b"")

    assert main(["inspect", str(tmp_path / "net.lrp.onnx"), "--html", str(tmp_path / "graph.html")]) == 1
    assert "lacks the forward graph" in capsys.readouterr().err
    (tmp_path / "net.pt2").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "net.pt2"), "--input", "x.npy"]) == 1
    assert "leave --input out" in capsys.readouterr().err


# ── Model Explorer ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_model_explorers_graph_is_whole(data: GraphData) -> None:
    (graph,) = graph_collection(data)["graphs"]

    names = [node["id"] for node in graph["nodes"]]
    assert len(names) == len(set(names)) == len(data.forward) + len(data.relevance)
    edges = [edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]]
    (overlays,) = graph["tasksData"]["edgeOverlaysDataListLeftPane"]
    edges += [
        edge[end] for row in overlays["overlays"] for edge in row["edges"] for end in ("sourceNodeId", "targetNodeId")
    ]
    assert set(edges) <= set(names)
    assert {row["name"] for row in overlays["overlays"]} == {"kept", "rebuilt", "constant", "elided"}
    assert {node["namespace"].split("/")[0] for node in graph["nodes"]} == {"forward", "relevance"}
    values = node_data(data)[graph["id"]]["results"]
    assert set(values) <= set(names)
    head = next(node.name for node in data.forward if node.module == "head" and node.op == "linear")
    assert data.books is not None
    assert values[f"forward/{head}"]["value"] == pytest.approx(data.books["seed"])


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────────────


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
    assert re.search(r"test_viewer\.py:\d+: return x \+ torch\.softmax", text)
    entry = next(entry for entry in explainer.audit(X, target=1).entries if entry.node == relu.name)
    shown = re.search(r"\bin\s+(−?[\d.]+)", text)
    assert shown is not None
    assert float(shown[1].replace("−", "-")) == pytest.approx(entry.relevance_in, rel=1e-3)


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
