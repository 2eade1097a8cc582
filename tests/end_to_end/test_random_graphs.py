"""Random graphs, random rules, random budgets: however a promise is resolved, the relevance is the same.

Three ways to the numbers know nothing of promises: autograd on a detached forward (where the rules are AttnLRP's in the
limit ε → 0), the rules run eagerly on the forward's own values, and the forward itself.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import drawing
from support.random_graphs import CLASSES, RandomGraph, attnlrp_relevance, random_graphs
from torch import Tensor, fx

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.passes.forward import explained_value
from lrp_compiler.passes.relevance import propagate_relevance
from lrp_compiler.rules import unit
from lrp_compiler.runtime import OnnxExplainer

Drawn = tuple[RandomGraph, Tensor]
STABILISED = {"epsilon": 1e-6}
RULES: dict[str, list[str]] = {
    "linear": ["epsilon", "z-plus", "alpha-beta", "gamma", "gamma-one-sided", "w-square", "flat", "zero"],
    "addition": ["epsilon", "magnitude", "z-plus"],
    "shift": ["epsilon", "magnitude"],
    "sum": ["epsilon", "magnitude"],
    "average": ["epsilon", "z-plus"],
    "normalization": ["epsilon", "pass"],
    "matmul": ["uniform", "full"],
    "product": ["uniform", "magnitude"],
    "gate": ["uniform", "signal"],
    "softmax": ["taylor", "zero"],
}
budgets = st.one_of(st.sampled_from([0.0, 0.25, 0.5]), st.floats(0, 1))


@st.composite
def composites(draw: st.DrawFn) -> lrp.Composite:
    """One of the named ones, or a rule drawn for every kind of operation."""
    named = draw(st.sampled_from(["", "epsilon", "epsilon-plus", "attnlrp", "attnlrp-gamma", "cp-lrp", "dynamic-lrp"]))
    if named:
        return lrp.composites.COMPOSITES[named]()
    entries = [lrp.Entry(kind, draw(st.sampled_from(names)), optional=True) for kind, names in RULES.items()]
    return lrp.Composite("drawn", tuple(entries), primitives=draw(st.booleans()))


def compiled(drawn: Drawn, composite: lrp.Composite, budget: float, target: int) -> lrp.Explainer | None:
    """The explainer; `None` where the logits depend on nothing."""
    model, x = drawn
    try:
        return lrp.compile(model, (x,), composite=composite, target=target, seed="value", memory_budget=budget)
    except InputError as error:
        if not re.search(
            "depends on none of the inputs|depends on the inputs only through a hard decision", str(error)
        ):
            raise
        return None


def close(result: Tensor, expected: Tensor, scale: Tensor) -> None:
    assert result.shape == expected.shape
    assert torch.isfinite(result).all() or not torch.isfinite(expected).all()
    # Where everything cancels (the sum of what was centred), what is left is the rounding of values around one.
    atol = 1e-9 * float(scale.abs().max()) + 4 * torch.finfo(scale.dtype).eps
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=atol, equal_nan=True)


def eager(explainer: lrp.Explainer, x: Tensor, target: int) -> Tensor:
    """The rules, run one by one on the values of a forward run that keeps everything."""
    run = fx.Interpreter(explainer.forward, garbage_collect_values=False)
    with torch.no_grad():
        run.run(x)
        explained = explained_value(explainer.forward)
        one_hot = torch.zeros_like(run.env[explained])
        one_hot[:, target] = 1.0
        arrived = propagate_relevance(explainer.forward, {explained: unit(one_hot)}, run.env.__getitem__)
    if not arrived:  # a rule keeps everything
        return torch.zeros_like(x)
    ((node, relevance),) = arrived.items()
    return relevance.tensor if relevance.form == "total" else relevance.tensor * run.env[node]


def executable(explainer: lrp.Explainer) -> None:
    """Every chain starts from what is at hand, goes forward, and nothing is handed over that nobody reads."""
    order = {node.name: place for place, node in enumerate(explainer.forward.graph.nodes)}
    nodes = {node.name: node for node in explainer.forward.graph.nodes}
    for promise in explainer.plan.of("rebuilt"):
        places = [order[name] for name in promise.chain]
        assert promise.chain[-1] == promise.value
        assert places == sorted(set(places))
        made = {*promise.args, *promise.chain}
        for name in promise.chain:
            read = [source for source in nodes[name].all_input_nodes if source.op != "get_attr"]
            assert all(source.name in made and order[source.name] < order[name] for source in read)
    placed: set[fx.Node] = set()
    for node in explainer.module.graph.nodes:
        assert placed.issuperset(node.all_input_nodes)
        assert node.users or node.op in ("placeholder", "output"), f"nobody reads {node}"
        placed.add(node)
    # Linear: each forward node once more, and five nodes for each source that is held back.
    notes = [(node.meta.get("custom") or {}).get("lrp", {}) for node in placed]
    edges = sum(len(node.all_input_nodes) for node in nodes.values())
    assert sum(note.get("rule") == "rebuilt" for note in notes) <= len(nodes) + 5 * edges


def all_ways_agree(drawn: Drawn, composite: lrp.Composite, budget: float, target: int) -> None:
    model, x = drawn
    whole = compiled(drawn, composite, 1.0, target)
    if whole is None:
        return
    expected = whole(x)
    relevance = expected.relevance["x"]
    close(relevance, eager(whole, x, target), relevance)

    for explainer in (whole, compiled(drawn, composite, budget, target)):
        assert explainer is not None
        executable(explainer)
        explained = explainer(x)
        close(explained.relevance["x"], relevance, relevance)
        forward, alone = explainer.split()
        results = forward(x)
        own = len(forward.meta["outputs"])
        (split,) = alone(*results[own:])
        close(split, relevance, relevance)
        assert len(results) == own + len(forward.meta["kept"])
        with torch.no_grad():
            result = model(x)
        for ours, theirs in zip(results, result if isinstance(result, tuple) else (result,), strict=False):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def equals_autograd(drawn: Drawn, budget: float, target: int) -> None:
    model, x = drawn
    attnlrp = replace(lrp.composites.attnlrp(), primitives=True)
    explainer = compiled(drawn, attnlrp, budget, target)
    expected = attnlrp_relevance(model, x, target)
    if explainer is None:
        assert not expected.any()
    else:
        close(explainer(x).relevance["x"], expected, expected)


classes = st.integers(0, CLASSES - 1)


@pytest.mark.slow
@drawing(8)
@given(random_graphs(), composites(), budgets, classes)
def test_joint_split_rebuilt_and_eager_agree(
    drawn: Drawn, composite: lrp.Composite, budget: float, target: int
) -> None:
    all_ways_agree(drawn, composite, budget, target)


@drawing(10)
@given(random_graphs(), budgets, classes)
def test_attnlrp_at_any_budget_is_the_gradient_of_the_detached_forward(
    drawn: Drawn, budget: float, target: int
) -> None:
    equals_autograd(drawn, budget, target)


@pytest.mark.heavy
@drawing(150)
@given(random_graphs(most=40), composites(), budgets, classes)
def test_joint_split_rebuilt_and_eager_agree_in_many_larger_graphs(
    drawn: Drawn, composite: lrp.Composite, budget: float, target: int
) -> None:
    all_ways_agree(drawn, composite, budget, target)


@pytest.mark.heavy
@drawing(150)
@given(random_graphs(most=40), budgets, classes)
def test_attnlrp_is_the_gradient_of_the_detached_forward_in_many_larger_graphs(
    drawn: Drawn, budget: float, target: int
) -> None:
    equals_autograd(drawn, budget, target)


def in_onnxruntime(drawn: Drawn, composite: lrp.Composite, target: int, folder: Path) -> None:
    explainer = compiled(drawn, composite, 1.0, target)
    if explainer is None:
        return
    try:
        explainer.to_onnx(folder / "m.lrp.onnx")
    except LrpError as error:
        if "onnxruntime has no" not in str(error):  # kernel of that operator for float64
            raise
        return
    expected, x = explainer(drawn[1]).relevance["x"].numpy(), drawn[1].numpy()
    with OnnxExplainer(folder / "m.lrp.onnx") as deployed:
        found = deployed(x).relevance["x"]
    assert np.array_equal(np.isfinite(found), np.isfinite(expected))
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    # Float64's rounding, where a quotient is taken of what has cancelled; more than that is another number.
    assert np.abs(found - expected)[np.isfinite(expected)].max(initial=0) <= 1e-7 * largest + 1e-12


@pytest.mark.slow
@drawing(6)
@given(random_graphs(most=6, loops=True), composites(), budgets, classes)
def test_joint_split_rebuilt_and_eager_agree_with_loops(
    drawn: Drawn, composite: lrp.Composite, budget: float, target: int
) -> None:
    all_ways_agree(drawn, composite, budget, target)


@pytest.mark.slow
@drawing(6)
@given(random_graphs(most=6, loops=True), budgets, classes)
def test_attnlrp_is_the_gradient_of_the_detached_forward_with_loops(drawn: Drawn, budget: float, target: int) -> None:
    equals_autograd(drawn, budget, target)


@pytest.mark.heavy
@drawing(60)
@given(random_graphs(most=14, loops=True), composites(), budgets, classes)
def test_joint_split_rebuilt_and_eager_agree_in_many_larger_graphs_with_loops(
    drawn: Drawn, composite: lrp.Composite, budget: float, target: int
) -> None:
    all_ways_agree(drawn, composite, budget, target)


@pytest.mark.heavy
@drawing(60)
@given(random_graphs(most=14, loops=True), budgets, classes)
def test_attnlrp_is_the_gradient_in_many_larger_graphs_with_loops(drawn: Drawn, budget: float, target: int) -> None:
    equals_autograd(drawn, budget, target)


@pytest.mark.slow
def test_onnxruntime_says_the_same_with_loops(tmp_path_factory: pytest.TempPathFactory) -> None:
    @drawing(5)
    @given(random_graphs(most=6, loops=True), composites(), classes)
    def holds(drawn: Drawn, composite: lrp.Composite, target: int) -> None:
        in_onnxruntime(drawn, composite, target, tmp_path_factory.mktemp("file"))

    holds()
