"""What a step reads at the place that its number says is read step by step."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._higher_order_ops.scan import scan

from lrp_compiler.passes.decompose import written_out
from lrp_compiler.passes.forward import read_step_by_step, unlift
from lrp_compiler.passes.graph import scans

X = torch.randn(3, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(torch.nn.Module):
    def __init__(self, read: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        def step(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(0.5 * h + self.read(x, i, h))
            return h, h.clone()

        last, every = scan(step, torch.zeros_like(x[:, 0]), torch.arange(x.shape[1]))
        return last + every.mean(0)


def forward_graph(read: Callable[[Tensor, Tensor, Tensor], Tensor]) -> fx.GraphModule:
    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}}
    with torch.no_grad():
        return unlift(written_out(torch.export.export(Net(read).eval(), (X,), dynamic_shapes=shapes)))


READS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "in order": lambda x, i, h: x.index_select(1, i.reshape(1)).squeeze(1),
    "from the end": lambda x, i, h: x.index_select(1, (x.shape[1] - 1 - i).reshape(1)).squeeze(1),
    "round and round": lambda x, i, h: x.index_select(1, ((i + 3) % x.shape[1]).reshape(1))[:, 0],
    "twice": lambda x, i, h: x.index_select(1, i.reshape(1))[:, 0] * x.index_select(1, (i // 2).reshape(1))[:, 0],
}


@pytest.mark.parametrize("read", READS)
def test_it_is_read_in_front_of_the_loop(read: str) -> None:
    module = forward_graph(READS[read])
    before = [module(x)[0] for x in (X, X[:1, :2], X[:, :1])]

    result = read_step_by_step(module)

    assert result.modified
    (loop,) = scans(module)
    inside = {str(node.target) for node in loop.target.body.graph.nodes}  # type: ignore[union-attr]
    assert "aten.index_select.default" not in inside
    for x, expected in zip((X, X[:1, :2], X[:, :1]), before, strict=True):
        assert torch.equal(module(x)[0], expected)
    module.graph.lint()


def test_in_order_nothing_is_looked_up() -> None:
    module = read_step_by_step(forward_graph(READS["in order"])).graph_module

    assert "index_select" not in module.code


def test_what_the_state_says_is_read_inside() -> None:
    module = forward_graph(lambda x, i, h: x.index_select(1, (h.sum() > i).to(torch.int64).reshape(1)).squeeze(1))
    expected = module(X)[0]

    result = read_step_by_step(module)

    assert not result.modified
    assert "not the step's number alone" in result.declined[0][1]
    assert torch.equal(result.graph_module(X)[0], expected)


def deep(i: Tensor, rounds: int) -> Tensor:
    """The number itself, after so many rounds that each read the one before twice."""
    for _ in range(rounds):
        i = torch.minimum(i + 1, i + 2) - 1
    return i


@pytest.mark.slow
def test_a_number_may_come_a_long_way() -> None:
    module = forward_graph(lambda x, i, h: x.index_select(1, deep(i, 300).reshape(1)).squeeze(1))
    expected = module(X)[0]

    result = read_step_by_step(module)

    assert result.modified
    assert torch.equal(result.graph_module(X)[0], expected)
