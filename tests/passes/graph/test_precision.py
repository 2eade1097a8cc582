"""Graphs in float64: what is calculated is what the same calculation in doubles is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._higher_order_ops.scan import scan

from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import Float64, scans
from lrp_compiler.passes.graph.precision import HALF_TO_FLOAT

THIRD = 1 / 3


class Net(nn.Module):
    """A weight and a buffer, neither of which half precision holds exactly once they are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        self.register_buffer("scale", torch.tensor([0.1, 0.2, 0.3]))

    def forward(self, x: Tensor) -> Tensor:
        return (nn.functional.linear(x, self.weight) * self.scale).softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_model_runs_as_its_copy_in_doubles(dtype: torch.dtype, graph_of: Callable) -> None:
    model, x = Net().to(dtype), torch.linspace(-2, 2, 8).reshape(2, 4).to(dtype)
    graph = graph_of(model, x)

    (found,) = Float64(graph).run(x)

    assert found.dtype == torch.float64
    torch.testing.assert_close(found, model.double()(x.double()), rtol=1e-15, atol=1e-15)


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "a cast": lambda x: x.to(torch.float16) * THIRD,
    "numbers made on the way": lambda x: x + torch.full((3,), THIRD, dtype=torch.float16),
    "a softmax of half precision in float32": lambda x: x.half().softmax(-1, dtype=torch.float32),
    "its logarithm": lambda x: x.half().log_softmax(-1, dtype=torch.float32),
}


@pytest.mark.parametrize("name", CASTS)
def test_dtypes_that_are_named_are_doubles_too(name: str, graph_of: Callable) -> None:
    """The numbers are halves, which no cast changes: what differs is what is calculated with them."""
    x = torch.tensor([[0.5, -1.5, 2.25]])
    by_hand = {
        "a cast": lambda x: x * THIRD,
        "numbers made on the way": lambda x: x + THIRD,
        "a softmax of half precision in float32": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
        "its logarithm": lambda x: x - x.exp().sum(-1, keepdim=True).log(),
    }

    (found,) = Float64(graph_of(CASTS[name], x)).run(x)

    torch.testing.assert_close(found, by_hand[name](x.double()), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("target", sorted(HALF_TO_FLOAT, key=str), ids=str)
def test_ops_that_make_float32_of_half_precision_make_doubles(target: Any) -> None:
    """As they stand in programs that were exported on a GPU; of doubles they refuse to."""
    graph = fx.Graph()
    graph.output((graph.call_function(target, (graph.placeholder("x"), -1, True)),))
    x = torch.tensor([[0.5, -1.5, 2.25]], dtype=torch.float16)

    (found,) = Float64(fx.GraphModule({}, graph)).run(x)

    e = x.double().exp()
    by_hand = e / e.sum(-1, keepdim=True)
    wanted = by_hand.log() if "log" in str(target) else by_hand
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-15)


def test_complex_numbers_are_raised_and_whole_ones_stay(graph_of: Callable) -> None:
    z, ids = torch.tensor([THIRD + 1j, 2 - 1j], dtype=torch.complex64), torch.tensor([1, 0])

    doubled, picked = Float64(graph_of(lambda z, ids: (z * z, ids + 1), z, ids)).run(z, ids)

    assert torch.equal(doubled, z.to(torch.complex128) ** 2)
    assert torch.equal(picked, torch.tensor([2, 1]))
    assert picked.dtype == torch.int64


def test_the_steps_of_a_loop_are_raised_too() -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            def step(state: Any, now: Any) -> Any:
                return state * 0.9 + now * torch.full((2,), THIRD, dtype=torch.float32), state.clone()

            return scan(step, torch.zeros(2), x)[0]

    x = torch.linspace(-1, 1, 10).reshape(5, 2)
    with torch.no_grad():
        graph = unlift(torch.export.export(Loop(), (x,)))
    assert len(scans(graph)) == 1

    (found,) = Float64(graph).run(x)

    state = torch.zeros(2, dtype=torch.float64)
    for now in x.double():
        state = state * 0.9 + now * THIRD
    torch.testing.assert_close(found, state, rtol=1e-15, atol=1e-15)
