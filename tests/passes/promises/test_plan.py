"""The paper's example graphs for promises: what the plan says of each, and the numbers at every budget.

The numbers are gradient × input: what the ε rule becomes on linear maps, ReLUs and masks as ε → 0.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from support.promise_graphs import (
    GRAPHS,
    WIDTH,
    Graph,
    basic_chain,
    build,
    compiled,
    diamond,
    promise_tree,
    residual_deadlock,
    through_alpha,
    through_masked_fill,
    through_negation,
    two_origins,
)
from torch import Tensor

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.promises.plan import Plan

pytestmark = pytest.mark.sampled(4)

BUDGETS = (1.0, 0.5, 0.25, 0.0)


@pytest.mark.slow
@pytest.mark.sampled(16)
@pytest.mark.parametrize(("function", "layers"), GRAPHS, ids=lambda value: getattr(value, "__name__", ""))
def test_relevance_is_the_same_at_every_budget_joint_and_split(function: Callable[..., Tensor], layers: int) -> None:
    model, x = build(function, layers)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).max(-1).values.sum(), leaf)
    expected = gradient * x

    for budget in BUDGETS:
        explainer = compiled(function, layers, budget)
        joint = explainer(x)
        torch.testing.assert_close(joint.relevance["x"], expected, rtol=1e-7, atol=1e-9)

        forward, relevance = explainer.split()
        output, *kept = forward(x)
        (alone,) = relevance(*kept)
        torch.testing.assert_close(output, joint.output, rtol=0, atol=0)
        torch.testing.assert_close(alone, joint.relevance["x"], rtol=0, atol=0)


def rows(plan: Plan, resolution: str) -> set[str]:
    return {promise.value for promise in plan if promise.resolution == resolution}


@pytest.mark.slow
def test_basic_chain() -> None:
    plan = compiled(basic_chain, 5, optimise=False).plan

    # Each dense layer asks for its result (ε) and its weight; each ReLU for its own result's sign.
    assert rows(plan, "kept") == {"x", *(f"linear{n}" for n in ("", "_1", "_2", "_3", "_4"))} | {
        f"relu{n}" for n in ("", "_1", "_2", "_3", "_4")
    }
    assert len(plan.of("constant")) == 5
    assert not plan.of("rebuilt")

    # Behind a ReLU its result is enough for both.
    assert rows(compiled(basic_chain, 5).plan, "kept") == {"x", *(f"relu{n}" for n in ("", "_1", "_2", "_3", "_4"))}

    cheap = compiled(basic_chain, 5, 0.65, optimise=False).plan
    assert {f"relu{n}" for n in ("", "_1", "_2", "_3")} <= rows(cheap, "rebuilt")
    for promise in cheap.of("rebuilt"):
        assert promise.chain == (promise.value,)
        assert promise.nested  # from the linear's value, which is promised itself


def test_promise_tree() -> None:
    plan = compiled(promise_tree, 5, 0.0).plan
    nested = [promise for promise in plan.of("rebuilt") if promise.nested]

    assert nested
    for promise in nested:
        assert set(promise.args) & {other.value for other in plan}


@pytest.mark.slow
def test_residual_deadlock() -> None:
    """Whatever is rebuilt, it is rebuilt from what comes before it: no promise can wait for another."""
    for budget in BUDGETS:
        explainer = compiled(residual_deadlock, 3, budget)
        order = {node.name: place for place, node in enumerate(explainer.forward.graph.nodes)}
        for promise in explainer.plan.of("rebuilt"):
            assert all(order[arg] < order[promise.value] for arg in promise.args)
            assert list(promise.chain) == sorted(promise.chain, key=order.__getitem__)


def test_diamond() -> None:
    stabilised = compiled(diamond, 3).plan
    model, x = build(diamond, 3)
    limit = lrp.compile(model, (x,), composite="attnlrp", target=0).plan

    # A finite ε needs the sum's value; in the limit relevance passes the sum in unit form, and nobody asks for it.
    assert "add" in rows(stabilised, "kept")
    assert "add" not in {promise.value for promise in limit}
    assert (stabilised.strict, limit.strict) == (1, 1)


def test_two_origins_share_one_promise() -> None:
    model, x = build(two_origins, 3)
    plan = lrp.compile(model, (x,), composite=lrp.Composite("z⁺", (lrp.Entry("linear", "z-plus"),))).plan
    values = [promise.value for promise in plan]

    assert len(values) == len(set(values))
    (shared,) = [promise for promise in plan if promise.value == "relu"]
    assert {"linear_1", "linear_2"} <= set(shared.origins)


@pytest.mark.parametrize("function", [through_negation, through_alpha, through_masked_fill])
def test_what_the_reference_recovers_wrongly_is_rebuilt_by_the_forwards_own_ops(
    function: Callable[..., Tensor],
) -> None:
    plan = compiled(function, 2, 0.3).plan

    assert plan.of("rebuilt")
    for promise in plan.of("rebuilt"):
        assert promise.chain[-1] == promise.value


def test_the_plan_is_a_table_plain_data_and_travels_in_files(tmp_path: Any) -> None:
    explainer = compiled(promise_tree, 5, 0.4)
    explainer.save(tmp_path / "m.lrp.pt2")
    loaded = lrp.load(tmp_path / "m.lrp.pt2").plan

    assert loaded == explainer.plan
    assert str(len(loaded.of("rebuilt"))) in loaded.summary()
    for promise in loaded.of("kept", "rebuilt"):
        assert promise.value in str(loaded)


@pytest.mark.slow
def test_rebuilding_survives_onnxruntime(tmp_path: Path) -> None:
    """What is rebuilt looks like what the forward computed: no optimizer may take one for the other."""
    torch.manual_seed(0)
    model, x = Graph(basic_chain, 8).eval(), torch.randn(3, WIDTH)
    composite = lrp.composites.epsilon(epsilon=1e-3)
    counts, relevance = [], []
    for budget in (1.0, 0.0):
        explainer = lrp.compile(model, (x,), composite=composite, memory_budget=budget)
        explainer.to_onnx(tmp_path / "m.lrp.onnx")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        session = onnxruntime.InferenceSession(tmp_path / "m.lrp.onnx", options, providers=["CPUExecutionProvider"])
        relevance.append(torch.from_numpy(session.run(["relevance.x"], {"x": x.numpy()})[0]))
        nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
        counts.append(sum(node.op_type in ("Gemm", "MatMul", "FusedGemm", "FusedMatMul") for node in nodes))

    chains = {value for promise in explainer.plan.of("rebuilt") for value in promise.chain}
    again = sum(value.startswith("linear") for value in chains)
    assert again >= 4
    assert counts[1] >= counts[0] + again
    torch.testing.assert_close(relevance[1], relevance[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("budget", "word"), [(1.5, "1.5"), (-0.1, "-0.1")])
def test_a_budget_is_a_share(budget: float, word: str) -> None:
    with pytest.raises(InputError, match=word):
        compiled(diamond, 3, budget)


def test_a_budget_that_cannot_be_reached_says_what_was() -> None:
    plan = compiled(basic_chain, 5, 0.0).plan

    assert not plan.reached
    assert "cannot be reached" in plan.summary()
    assert 0 < plan.held_bytes < plan.promised_bytes
