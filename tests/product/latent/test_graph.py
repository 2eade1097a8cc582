"""The attribution graph: its edges by hand, what they add up to, what is pruned, and the file that viewers read."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.branches import BY_HAND, Branches, X
from support.drawn import drawing
from support.random_graphs import RandomGraph, random_graphs
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.graph import assignment
from lrp_compiler.passes.relevance import walk
from lrp_compiler.rules import TOTAL_STABILISER, first_layer, op, signed
from lrp_compiler.runtime import OnnxExplainer

BATCH = {0: torch.export.Dim("batch")}
PATHS = ["hidden", "second"]


def compiled(model: nn.Module, x: Tensor, paths: Any, **options: Any) -> lrp.Explainer:
    options = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "seed": "tensor", **options}
    return lrp.compile(model.eval(), (x,), **{"masks": paths, "seeds": paths, "observe": paths, **options})


def in_units(model: nn.Module, x: Tensor, paths: list[str], **options: Any) -> lrp.Explainer:
    """One that takes coefficients."""
    return compiled(model, x, paths, seeds=[lrp.Put(path, "unit") for path in paths], form="both", **options)


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def branches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    explainer = compiled(Branches(), X, PATHS)
    if request.param == "torch":
        return explainer
    path = tmp_path_factory.mktemp("files") / "m.lrp.onnx"
    explainer.to_onnx(path)
    return OnnxExplainer(path)


def of(explainer: Any, rows: int = 1) -> Any:
    return X[:rows].numpy() if isinstance(explainer, OnnxExplainer) else X[:rows]


def edges(graph: concepts.Graph) -> dict[tuple[str, str], float]:
    return {(edge.source, edge.target): edge.relevance for edge in graph.edges}


def test_edges_by_hand(branches: Any) -> None:
    graph = concepts.graph(branches, of(branches), threshold=0)

    assert edges(graph) == {ends: pytest.approx(weight, abs=2e-5) for ends, weight in BY_HAND.items()}
    assert [node.id for node in graph.nodes] == ["logit", "hidden:0", "hidden:1", "second:0", "second:1", "x:0", "x:1"]
    assert graph["logit"].relevance == pytest.approx(13)
    assert graph.into("x:0") == {"logit": pytest.approx(4), "hidden:0": pytest.approx(3), "hidden:1": pytest.approx(2)}
    assert sum(graph.out_of("logit").values()) == pytest.approx(13)


def test_what_goes_past_a_layer_is_an_edge_whatever_its_mask_excludes() -> None:
    masks = [lrp.Mask(path, exclude_parallel=True) for path in PATHS]

    graph = concepts.graph(compiled(Branches(), X, PATHS, masks=masks), X[:1], threshold=0)

    assert edges(graph) == {ends: pytest.approx(weight, abs=2e-5) for ends, weight in BY_HAND.items()}


@pytest.mark.parametrize("size", [1, 2])
def test_units_that_are_no_nodes_are_the_rest(branches: Any, size: int) -> None:
    graph = concepts.graph(branches, of(branches), threshold=0, keep=1, batch_size=size)

    found = edges(graph)
    assert found["hidden:0", "second:0"] == pytest.approx(6, abs=2e-5)
    assert found["hidden:0", "second:rest"] == pytest.approx(3, abs=2e-5)
    assert found["hidden:rest", "second:rest"] == pytest.approx(2, abs=2e-5)
    assert ("hidden:rest", "second:0") not in found
    assert graph["hidden:rest"].rest
    assert graph["hidden:rest"].relevance == pytest.approx(2, abs=2e-5)


def test_what_carries_little_of_what_reaches_its_layer_is_dropped(branches: Any) -> None:
    graph = concepts.graph(branches, of(branches), threshold=0.3)

    # Second gets 6 and 5, hidden 6, 3 and 2, and x 4, −2, 3, 6 and 2: of 17.
    kept = {("second:0", "logit"), ("second:1", "logit"), ("hidden:0", "second:0"), ("x:1", "hidden:0")}
    assert set(edges(graph)) == kept
    assert [node.id for node in graph.nodes] == ["logit", "hidden:0", "second:0", "second:1", "x:1"]
    assert edges(graph.pruned(0.9)).keys() == {("hidden:0", "second:0"), ("x:1", "hidden:0")}


def test_only_one_layer(branches: Any) -> None:
    graph = concepts.graph(branches, of(branches), ["hidden"], threshold=0)

    assert edges(graph)["hidden:0", "logit"] == pytest.approx(9, abs=2e-5)
    assert edges(graph)["hidden:1", "logit"] == pytest.approx(2, abs=2e-5)
    assert graph.layers == ["hidden"]


class Deep(nn.Module):
    """Three dense layers with ReLUs, and an addition that goes past the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(n, m, bias=False) for n, m in ((5, 7), (7, 7), (7, 4)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.last(h + self.second(h).relu())


@pytest.mark.slow
@pytest.mark.parametrize("make", [compiled, in_units])
@pytest.mark.parametrize("target", [None, 2, (0, 3)])
def test_edges_are_products_of_matrices(target: Any, make: Any) -> None:
    torch.manual_seed(1)
    net, x = Deep().double(), torch.randn(2, 5).double()
    explainer = make(net, x, ["first", "second"], composite=lrp.composites.epsilon(1e-12))

    graph = concepts.graph(explainer, x[:1], target=target, keep=7, threshold=0)

    with torch.no_grad():
        h = net.first(x[0]).relu()
        s = net.second(h).relu()
        z = net.last(h + s)
        seed = torch.zeros(4).double()
        chosen = [int(z.argmax())] if target is None else [target] if isinstance(target, int) else list(target)
        seed[chosen[0]] = 1.0
        if len(chosen) == 2:
            seed[chosen[1]] = -1.0
        g = seed @ net.last.weight
        to_second, to_first = g * s, g * h
        first_of_second = h[:, None] * net.second.weight.T * ((s > 0) * g)[None]
        total = to_first + first_of_second.sum(1)
        input_of_first = x[0][:, None] * net.first.weight.T * torch.where(h > 0, total / h, 0)[None]
    found = edges(graph)
    scale = float(total.abs().max())
    expected = {(f"second:{j}", "logit"): to_second[j] for j in range(7)}
    expected |= {(f"first:{i}", "logit"): to_first[i] for i in range(7)}
    expected |= {(f"first:{i}", f"second:{j}"): first_of_second[i, j] for i in range(7) for j in range(7)}
    expected |= {(f"x:{n}", f"first:{i}"): input_of_first[n, i] for n in range(5) for i in range(7)}
    for ends, weight in expected.items():
        assert found.get(ends, 0.0) == pytest.approx(float(weight), abs=1e-9 * scale), ends
    assert set(found) <= set(expected)


class Attention(nn.Module):
    """Two heads of four features each, read at the last position."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.out = nn.Linear(8, 3, bias=False)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = (
            layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return torch.softmax(query @ key.transpose(2, 3) / 2, -1), value

    def forward(self, x: Tensor) -> Tensor:
        pattern, value = self.parts(x)
        return self.out((pattern @ value).transpose(1, 2).flatten(2)[:, -1])


@pytest.mark.slow
@pytest.mark.parametrize("apart", ["channels", "tokens", "both"])
def test_heads_hand_relevance_to_the_tokens_that_they_read(apart: Any) -> None:
    """Patterns held fixed: what head h has of the token t is pattern · value · the weights that read it."""
    torch.manual_seed(0)
    net, x = Attention().double(), torch.randn(2, 5, 8).double()
    explainer = in_units(net, x, ["matmul_1"], composite="cp-lrp")

    graph = concepts.graph(explainer, x[:1], target=1, apart=apart, keep=10, threshold=0)

    with torch.no_grad():
        pattern, value = net.parts(x[:1])
        read = torch.einsum("ht,htd,hd->ht", pattern[0, :, -1], value[0], net.out.weight[1].reshape(2, 4))
        logit = net(x)[0, 1].abs()
        read *= logit / (logit + TOTAL_STABILISER)  # relevance is put on the logit as a total
    found = edges(graph)
    names = {
        "channels": ["matmul_1:0", "matmul_1:1"],
        "tokens": ["matmul_1:@4"],
        "both": ["matmul_1:0@4", "matmul_1:1@4"],
    }
    rows = read if apart != "tokens" else read.sum(0, keepdim=True)
    for name, row in zip(names[apart], rows, strict=True):
        assert found[name, "logit"] == pytest.approx(float(row.sum()), rel=1e-9)
        for token in range(5):
            assert found[f"x:{token}", name] == pytest.approx(float(row[token]), rel=1e-9)
    node = graph[names[apart][0]]
    assert (node.unit, node.position) == {"channels": (0, None), "tokens": (None, 4), "both": (0, 4)}[apart]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": ["hiden"]}, "takes none for 'hiden'.*'hidden'.*compile with seed='tensor'"),
        ({"layers": []}, "compile with seed='tensor'"),
        ({"keep": 0}, "keep is how many units"),
        ({"threshold": 1}, "threshold is a share"),
        ({"batch_size": 0}, "batch_size is a whole number"),
        ({"target": 7}, "target is a class from 0 to 0"),
        ({"target": (0, 0, 0)}, "target is a class"),
        ({"apart": "heads"}, "apart is 'channels', 'tokens' or 'both'"),
        ({"apart": "tokens"}, "no dim besides its channels"),
        ({"apart": {"second": "both"}}, "no dim besides its channels"),
        ({"tokens": ["a"]}, "tokens is the names of the 2 positions of 'x'"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], said: str, branches: Any) -> None:
    with pytest.raises(InputError, match=said):
        concepts.graph(branches, of(branches), **options)


@pytest.mark.slow
def test_an_explainer_that_was_compiled_otherwise(branches: Any) -> None:
    with pytest.raises(InputError, match="A graph is of one row"):
        concepts.graph(branches, of(branches, 2))
    plain = lrp.compile(Branches().eval(), (X,), masks=PATHS, seeds=PATHS, observe=PATHS, dynamic_shapes=(BATCH,))
    with pytest.raises(InputError, match="compile with seed='tensor'"):
        concepts.graph(plain, X[:1])
    one = compiled(Branches(), X, PATHS[:1])
    with pytest.raises(InputError, match="takes none for 'second'"):
        concepts.graph(one, X[:1], PATHS)
    unit = compiled(Branches(), X, PATHS, seeds=[lrp.Put(path, "unit") for path in PATHS])
    with pytest.raises(InputError, match="in unit form: compile with form='both'"):
        concepts.graph(unit, X[:1])


FIELDS = {
    "metadata": {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str},
    "qParams": {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str},
}
NODE = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float}
NODE |= {
    "is_target_logit": bool,
    "run_idx": int,
    "reverse_ctx_idx": int,
    "jsNodeId": str,
    "clerp": str,
    "influence": float,
}
"""What circuit-tracer's `frontend/graph_models.py` declares, which its viewer and Neuronpedia's read."""


def test_the_file_is_what_viewers_read(branches: Any, tmp_path: Path) -> None:
    graph = concepts.graph(branches, of(branches), threshold=0, keep=1, tokens=["a ", "b"])

    graph.save(tmp_path / "graph.json", slug="by-hand", scan="branches")

    held = json.loads((tmp_path / "graph.json").read_text())
    assert set(held) == {"metadata", "qParams", "nodes", "links"}
    for part, fields in FIELDS.items():
        assert {name: type(held[part][name]) for name in fields} == fields
    assert all({name: type(node[name]) for name in NODE} == NODE for node in held["nodes"])
    assert held["metadata"]["prompt_tokens"] == ["a ", "b"]
    assert held["metadata"]["prompt"] == "a b"
    ids = [node["node_id"] for node in held["nodes"]]
    assert len(set(ids)) == len(ids)
    assert {end for link in held["links"] for end in (link["source"], link["target"])} <= set(ids)
    kinds = {node["path"]: (node["feature_type"], node["layer"]) for node in held["nodes"]}
    assert kinds == {
        "logit": ("logit", "3"),
        "hidden:0": ("cross layer transcoder", "0"),
        "hidden:rest": ("mlp reconstruction error", "0"),
        "second:0": ("cross layer transcoder", "1"),
        "second:rest": ("mlp reconstruction error", "1"),
        "x:0": ("embedding", "E"),
        "x:1": ("embedding", "E"),
    }
    weights = {(link["source"], link["target"]): link["weight"] for link in held["links"]}
    assert weights["1_0_0", "3_0_0"] == pytest.approx(6)
    shares = sorted(node["influence"] for node in held["nodes"])
    assert shares[-1] == pytest.approx(1)
    top = next(node for node in held["nodes"] if node["is_target_logit"])
    assert top["influence"] == shares[0]


def test_the_picture_can_be_read(branches: Any, tmp_path: Path) -> None:
    graph = concepts.graph(branches, of(branches), threshold=0, keep=1, labels=["a class"])
    figure = graph.picture(title="By hand")
    figure.save(tmp_path / "graph.png")

    figure.canvas.draw()
    (axis,) = figure.axes
    width, _ = figure.get_size_inches()
    words = {text.get_text(): text for text in axis.texts}
    assert {"a class (class 0)", "hidden", "second", "x", "rest", "13"} <= set(words)
    assert min(text.get_fontsize() for text in axis.texts) / 72 / width * 390 >= 7.5  # CSS pixels on a phone
    assert len(axis.lines) == len(graph.edges)
    boxes = [text.get_window_extent() for text in axis.texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)


def test_many_and_long_names_lie_beside_each_other() -> None:
    """Forty tokens, some of them long: no spot over another, none outside."""
    nodes = [concepts.Node("logit", "logit", None, None, 1.0, "a class with a long name")]
    nodes += [concepts.Node(f"ids:{at}", "ids", None, at, 0.1, "word" * (1 + at % 4)) for at in range(40)]
    edges = [concepts.Edge(node.id, "logit", 0.1) for node in nodes[1:]]

    figure = concepts.Graph(nodes, edges, [], ["ids"], "attnlrp").picture()

    figure.canvas.draw()
    spots = [patch.get_window_extent() for patch in figure.axes[0].patches]
    assert len(spots) == 41
    assert not any(one.overlaps(other) for one, other in combinations(spots, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in spots)


Drawn = tuple[RandomGraph, Tensor]
NOTHING = "depends on none of the inputs|depends on the inputs only through a hard decision|takes no relevance"


def conserved(drawn: Drawn, composite: str, which: list[int], draws: st.DataObject) -> None:
    """All that a node gets adds up to its relevance, whatever the graph, the rules, and the layers chosen.

    What is put on a value as a total is divided by an activation where a rule wants a coefficient, and what came from
    the target may not have been: they differ by what the stabiliser is worth. It is next to nothing here.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (op, signed, first_layer, walk):
            patch.setattr(module, "TOTAL_STABILISER", 1e-13)
        _conserved(drawn, composite, which, draws)


def _conserved(drawn: Drawn, composite: str, which: list[int], draws: st.DataObject) -> None:
    model, x = drawn[0], drawn[1][:1]
    options: dict[str, Any] = {"composite": composite, "target": 1, "seed": "tensor"}
    try:
        plain = lrp.compile(model, (x,), **options)
    except InputError as error:
        if not re.search(NOTHING, str(error)):
            raise
        return
    nodes = [node for node in plain.forward.graph.nodes if node.op == "call_function" and assignment(node) is not None]
    nodes = [node for node in nodes if node.meta["val"].dim() > 1 and node.meta["val"].is_floating_point()]
    nodes = [node for node in nodes if node is not plain.artefact.explained]
    paths = [nodes[at].name for at in sorted({at % len(nodes) for at in which})] if nodes else []
    if not paths:
        return
    form = draws.draw(st.sampled_from(["total", "unit"]))
    try:
        puts = [lrp.Put(path, form) for path in paths]
        explainer = lrp.compile(model, (x,), masks=paths, seeds=puts, observe=paths, form="both", **options)
    except InputError as error:
        if not re.search(NOTHING, str(error)):
            raise
        return
    graph = concepts.graph(explainer, x, paths, target=1, keep=draws.draw(st.integers(1, 4)), threshold=0)
    seed = torch.zeros(1, int(explainer.about.classes or 0), dtype=x.dtype)
    seed[0, 1] = graph["logit"].relevance
    whole = explainer(x, seed=seed)
    for path in [*paths, *whole.run.inputs]:
        own = whole.relevance[path]
        if not torch.isfinite(own).all():
            return
        found = [node for node in graph.nodes if node.layer == path]
        scale = max(float(own.abs().sum()), abs(graph["logit"].relevance), 1e-12)
        for node in found:
            assert abs(sum(graph.into(node.id).values()) - node.relevance) <= 1e-7 * scale, (node, graph.into(node.id))
        # All nodes together are the layer, whether they are drawn one by one or not.
        assert abs(sum(node.relevance for node in found) - float(own.sum())) <= 1e-9 * scale


COMPOSITES = st.sampled_from(["epsilon", "epsilon-plus", "attnlrp", "attnlrp-gamma", "cp-lrp", "dynamic-lrp"])
WHICH = st.lists(st.integers(0, 50), min_size=1, max_size=3)


@pytest.mark.slow
@drawing(6)
@given(random_graphs(), COMPOSITES, WHICH, st.data())
def test_edges_into_a_node_add_up_to_its_relevance(
    drawn: Drawn, composite: str, which: list[int], draws: st.DataObject
) -> None:
    conserved(drawn, composite, which, draws)


@pytest.mark.heavy
@drawing(60)
@given(random_graphs(most=30), COMPOSITES, WHICH, st.data())
def test_edges_into_a_node_add_up_to_its_relevance_in_many_larger_graphs(
    drawn: Drawn, composite: str, which: list[int], draws: st.DataObject
) -> None:
    conserved(drawn, composite, which, draws)


def test_dictionaries_are_layers_like_any_other() -> None:
    """Features and what they miss: what goes through the value is shared by both."""

    class Dictionary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.back = nn.Linear(7, 9), nn.Linear(9, 7)

        def encode(self, x: Tensor) -> Tensor:
            return self.into(x).relu()

        def decode(self, features: Tensor) -> Tensor:
            return self.back(features)

    torch.manual_seed(0)
    net, x = Deep().double(), torch.randn(2, 5).double()
    paths = ["second.features", "second.remainder"]
    explainer = compiled(net, x, paths, splice={"second": Dictionary().double().eval()})
    value = compiled(net, x, ["second"])

    graph = concepts.graph(explainer, x[:1], threshold=0, target=1, keep=20)

    parts = sum(node.relevance for node in graph.nodes if node.layer in paths)
    whole = sum(
        node.relevance for node in concepts.graph(value, x[:1], target=1, keep=20).nodes if node.layer == "second"
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
