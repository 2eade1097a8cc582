"""The viewer: every node and promise is in its data, the page holds all it needs, and a browser shows it."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import viewed
from support.folders import ROOT
from support.viewed import Net, X

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.cli import main
from lrp_compiler.passes.graph.notes import note_of
from lrp_compiler.views.graph_data import GraphData, graph_data
from lrp_compiler.views.model_explorer import graph_collection, node_data
from lrp_compiler.views.viewer import DAGRE

"""The viewer: every node and promise is in its data, the page holds all it needs, and a browser shows it."""

FOREIGN = re.compile(r"""(?:src|href|url|import|fetch)\s*[=(]\s*["']?(?:https?:)?//""", re.IGNORECASE)


@pytest.fixture(scope="module")
def loaded(explainer: lrp.Explainer, tmp_path_factory: pytest.TempPathFactory) -> lrp.Explainer:
    file = tmp_path_factory.mktemp("saved") / "net.lrp.pt2"
    explainer.save(file)
    return lrp.load(file)


@pytest.fixture
def dagre(tmp_path: Path) -> Path:
    """The package of npm, all but empty."""
    for path in DAGRE.files:
        (tmp_path / "dagre" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dagre" / path).write_text(f"{path}\n" if path == "LICENSE" else "var dagre;\n", encoding="utf-8")
    with open(tmp_path / "dagre" / "dist" / "dagre.min.js", "a", encoding="utf-8") as file:
        file.write("//# sourceMappingURL=dagre.js.map\n")
    return tmp_path / "dagre"


@pytest.mark.slow
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
    assert file == Path(viewed.__file__).name
    assert Path(viewed.__file__).read_text(encoding="utf-8").splitlines()[int(line) - 1].strip() == code
    assert code == "y = self.mix(self.norm(x))"


@pytest.mark.slow
def test_a_rule_of_ones_own_shows_its_docstring() -> None:
    def evenly(op: Any, relevance: Any) -> Any:
        """All positions share alike."""
        return lrp.total(op.total(relevance).sum(1, keepdim=True).expand(op.shape("0")) / op.shape("0")[1])

    mine = lrp.Composite("mine", (lrp.Entry("*", evenly, path="blocks.0"), *lrp.composites.attnlrp().entries))
    torch.manual_seed(0)

    shown = graph_data(lrp.compile(Net().eval(), (X,), composite=mine))

    assert "All positions share alike." in {rule["formula"] for rule in shown.rules}


@pytest.mark.slow
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
