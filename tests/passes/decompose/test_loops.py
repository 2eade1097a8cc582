"""Loops whose steps hold tensors of their own, and whose operands are one another."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError

X = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OPEN = {"x": {0: Dim("batch"), 1: Dim("time")}}


class Held(torch.nn.Module):
    """A step makes tensors of numbers; one of them in a loop inside."""

    def forward(self, x: Tensor) -> Tensor:
        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            def layer(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
                z = torch.tanh(z * weight) + torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
                return z, z.clone()

            h = torch.tanh(h * torch.tensor(0.5) + x)
            h = scan(layer, h, torch.stack([x, x + 1]))[0]
            return h.clone(), h.clone()

        return scan(step, torch.zeros_like(x[:, 0]), x.transpose(0, 1))[0]


class HeldWrittenOut(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            h = torch.tanh(h * 0.5 + step)
            for weight in (step, step + 1):
                h = torch.tanh(h * weight) + torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
        return h


@pytest.mark.slow
def test_tensors_of_numbers_in_a_step() -> None:
    explainer = lrp.compile(Held().eval(), (X,), composite="epsilon-plus", target=1, dynamic_shapes=OPEN)

    for x in (X, X[:1, :1], X.repeat(2, 3, 1)):
        torch.testing.assert_close(torch.as_tensor(explainer(x).output), HeldWrittenOut()(x), rtol=0, atol=1e-14)
        books = explainer.audit(x)
        absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
        assert books.seed - absorbed - sum(books.inputs.values()) == pytest.approx(0, abs=1e-12)


class Twice(torch.nn.Module):
    """One tensor in two places."""

    def __init__(self, places: str) -> None:
        super().__init__()
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        start, steps = x.mean(1), x.transpose(0, 1)

        def step(states: Any, now: Any) -> Any:
            (a, b), (one, other) = states, now
            a = torch.tanh(a + one * other.flip(-1))
            return (a, 0.5 * b + a), a.clone()

        states = (start, start) if self.places == "states" else (start, start * 1.0)
        slices = (steps, steps) if self.places == "slices" else (steps, steps * 1.0)
        (a, b), _ = scan(step, states, slices)
        return a + 2 * b


@pytest.mark.slow
def test_what_is_read_step_by_step_may_be_one_tensor() -> None:
    found, expected = (
        lrp.compile(Twice(places).eval(), (X,), composite="attnlrp", target=1, dynamic_shapes=OPEN)(X)
        for places in ("slices", "none")
    )

    torch.testing.assert_close(torch.as_tensor(found.output), Twice("none")(X), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.relevance["x"], expected.relevance["x"], rtol=0, atol=1e-14)


def test_states_that_torch_takes_for_one_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"gets the tensor mean in two places.*x\.clone\(\)"):
        lrp.compile(Twice("states").eval(), (X,), composite="attnlrp", dynamic_shapes=OPEN)
