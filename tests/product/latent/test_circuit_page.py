"""The page of an attribution graph: its nodes and edges, in order, and nothing from elsewhere."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.branches import Branches, X

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.cli import main

PATHS = ["hidden", "second"]


@pytest.fixture(scope="module")
def explainer() -> lrp.Explainer:
    at = {"masks": PATHS, "seeds": PATHS, "observe": PATHS, "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    return lrp.compile(Branches().eval(), (X,), composite="attnlrp", seed="tensor", **at)


def held(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def test_nodes_from_the_explained_one_down_and_their_edges(explainer: lrp.Explainer, tmp_path: Path) -> None:
    graph = concepts.graph(explainer, X[:1], PATHS, threshold=0)
    page = graph.html(tmp_path / "circuit.html", title="</script><b>")
    assert (tmp_path / "circuit.html").read_text(encoding="utf-8") == page
    assert "<title>&lt;/script&gt;&lt;b&gt;</title>" in page
    data = held(page)
    assert [row["name"] for row in data["rows"]] == ["logit", *reversed(graph.layers), *graph.inputs]
    nodes = [node for row in data["rows"] for node in row["nodes"]]
    assert {node["id"]: node["relevance"] for node in nodes} == pytest.approx(
        {node.id: node.relevance for node in graph.nodes}, rel=4e-6
    )
    assert {(nodes[a]["id"], nodes[b]["id"]): value for a, b, value, _ in data["edges"]} == pytest.approx(
        {(edge.source, edge.target): edge.relevance for edge in graph.edges}, rel=4e-6
    )


def test_nothing_is_asked_of_other_places(explainer: lrp.Explainer) -> None:
    page = concepts.graph(explainer, X[:1], PATHS).html()
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="|@import|url\(', page)


def test_the_command_line_writes_it(explainer: lrp.Explainer, tmp_path: Path) -> None:
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    np.save(tmp_path / "x.npy", X[:1].numpy())
    files = [str(tmp_path / name) for name in ("m.lrp.onnx", "x.npy", "graph.html")]
    assert not main(["concepts", files[0], files[1], "--graph", ",".join(PATHS), "-o", files[2]])
    assert held(Path(files[2]).read_text(encoding="utf-8"))["edges"]
