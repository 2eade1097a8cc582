"""functorch's partitioner as a planner: decisions that can be carried out, and the same relevance."""

from typing import Any

import pytest
import torch
from support.blocks import INPUTS, TransformerBlock, build, draw
from support.plans import INPUT, executable
from torch import Tensor, nn
from torch.export import Dim

import lrp_compiler as lrp
from benchmarks.memory.min_cut import plan
from lrp_compiler.passes import pipeline
from lrp_compiler.passes.promises.planner import Value

pytestmark = pytest.mark.sampled(4)

BUDGETS = (1.0, 0.5, 0.25, 0.0)


def dense_and_relu(layers: int) -> list[Value]:
    values = [INPUT]
    for _ in range(layers):
        values.append(Value(100, 10000.0, (len(values) - 1,)))
        values.append(Value(100, 1.0, (len(values) - 1,), cheap=True))
    return values


@pytest.mark.parametrize("budget", BUDGETS)
def test_decisions_can_be_carried_out(budget: float) -> None:
    values = dense_and_relu(12)
    asked = list(range(1, len(values)))
    decision = plan(values, asked, budget)

    assert executable(values, asked, decision)
    assert sum(values[index].nbytes for index in decision.kept) <= budget * decision.promised
    assert set(decision.segment) == decision.rebuilt


def test_elementwise_values_are_rebuilt_at_every_budget() -> None:
    """Fused into what reads them they cost nothing: so functorch saves the matrix products alone."""
    values = dense_and_relu(12)
    last = len(values) - 1  # the forward's own result

    assert plan(values, range(1, len(values))).kept - {last} == set(range(1, len(values), 2))


def test_all_that_is_rebuilt_at_once_is_held() -> None:
    values = [INPUT, *(Value(100, 10000.0, (index,)) for index in range(10))]
    decision = plan(values, range(1, 11), 0.0)

    assert not decision.kept
    assert decision.held == decision.promised == 1000


def test_nothing_asked_nothing_decided() -> None:
    decision = plan([INPUT, Value(100, 1.0, (0,))], [0])

    assert (decision.kept, decision.rebuilt) == (set(), set())


class Diamond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = self.layers
        h = a(x).relu()
        return d(torch.cat([b(h).relu(), c(h).relu()], -1)[:, 3:9] + h.mean(-1, keepdim=True))


# γ asks for all that ε asks for, and more.
@pytest.mark.slow
@pytest.mark.parametrize("network", [Diamond, TransformerBlock])
@pytest.mark.parametrize("composite", [pytest.param("epsilon", marks=pytest.mark.heavy), "attnlrp-gamma"])
def test_relevance_is_that_of_the_projects_planner(
    network: type[nn.Module], composite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Diamond().double().eval() if network is Diamond else build(network)
    x = draw((3, 6) if network is Diamond else INPUTS[network])
    options: dict[str, Any] = {"composite": composite, "target": 1, "dynamic_shapes": {"x": {0: Dim("batch")}}}
    expected = lrp.compile(model, (x,), **options)(x).relevance["x"]
    monkeypatch.setattr(pipeline, "decide", plan)

    for budget in (0.5, 0.0):
        explainer = lrp.compile(model, (x,), memory_budget=budget, **options)
        torch.testing.assert_close(explainer(x).relevance["x"], expected, rtol=1e-10, atol=1e-12)
        forward, relevance = explainer.split()
        results = forward(x)
        (alone,) = relevance(*results[len(forward.meta["outputs"]) :])
        torch.testing.assert_close(alone, expected, rtol=1e-10, atol=1e-12)
