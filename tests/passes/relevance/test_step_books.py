"""What comes to a state is relevance of what the step before made of it."""

from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from support.assigned import assigned
from torch import Tensor, fx, nn
from torch._higher_order_ops.scan import scan

from lrp_compiler.passes.graph import within
from lrp_compiler.passes.relevance import Listeners, open_loops, propagate_relevance
from lrp_compiler.rules import Relevance, unit

X = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Sum(nn.Module):
    """`a, b = b, a + x`: every step's x goes to one of two sums, from which nothing is taken."""

    def forward(self, x: Tensor) -> Tensor:
        def step(states: tuple[Tensor, Tensor], now: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            a, b = states
            return (b.clone(), a + now), now.clone()

        (a, b), _ = scan(step, (torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])), x.transpose(0, 1))
        return a + 3 * b


def test_each_operation_hands_on_what_it_takes(graph_of: Callable) -> None:
    with torch.no_grad():
        done = assigned(graph_of(Sum(), X))
    open_loops(done.forward)
    values = done.values(X)
    taken, given, absorbed = (defaultdict[str, float](float) for _ in range(3))

    def total(node: fx.Node, share: Relevance) -> float:
        return float(share.total_of(lambda: values[node]).sum())

    def pass_on(node: fx.Node, operand: fx.Node, share: Relevance) -> None:
        given[node.name] += total(operand, share)
        taken[operand.name] += total(operand, share)

    def absorb(node: fx.Node, cause: str, share: Tensor) -> None:
        absorbed[cause] += float(share.sum())
        given[node.name] += float(share.sum())

    listeners = Listeners(absorb=absorb, pass_on=pass_on, asks=lambda node: True)
    propagate_relevance(
        done.forward, {done.explained: unit(torch.ones_like(X[:, 0]))}, values.__getitem__, listeners=listeners
    )

    # a = x_1 and b = 1 + x_0 + x_2 at the end: a started from ones, which get what b's share of them is.
    start = torch.ones_like(X[:, 0])
    assert taken["x"] == pytest.approx(float((X[:, 1] + 3 * (X[:, 0] + X[:, 2])).sum()), rel=1e-12)
    assert absorbed["constant"] == pytest.approx(float(3 * start.sum()), rel=1e-12)
    sums = [name for name in taken if within(done.named(name)).target is torch.ops.aten.add.Tensor]
    assert any(within(done.named(name)) is not done.named(name) for name in sums)
    for name in sums:  # an ε is taken
        assert given[name] == pytest.approx(taken[name], rel=1e-5)
