"""Which factor of a product gates the other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional

from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.simplify import simplify
from lrp_compiler.passes.pipeline import analyse, explainable_inputs
from lrp_compiler.rules import GATE
from lrp_compiler.rules.composite import Composite

X = torch.randn(2, 6)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :3], x[:, 3:]


def glu(x: Tensor) -> Tensor:
    a, b = halves(x)
    return functional.silu(a) * (b + 1)


def recurrent(x: Tensor) -> Tensor:
    a, b = halves(x)
    return torch.tanh(b) * torch.sigmoid(a)


def squeeze_and_excite(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(-1)).unsqueeze(-1)


def plain(x: Tensor) -> Tensor:
    a, b = halves(x)
    return (a + 1) * (b - 1)


def two_gates(x: Tensor) -> Tensor:
    a, b = halves(x)
    return torch.sigmoid(a) * torch.sigmoid(b)


def itself(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


MIXING = torch.randn(3, 3)


def weighed(x: Tensor) -> Tensor:
    signal = functional.silu(x[:, :3])
    return signal.unsqueeze(-1) * (signal @ MIXING).unsqueeze(-1)


def selective(x: Tensor) -> Tensor:
    """What enters a state, and what is read from it, by the rows of a batch of two."""
    write, signal, read = x[:, :2], x[:, 2:4], x[:, 4:]
    state = (torch.sigmoid(write) * signal + 1).unsqueeze(1)
    return state @ (read + 1).unsqueeze(-1)


def looked_up(x: Tensor) -> Tensor:
    return x[:, :2].unsqueeze(1) @ x[:, 2:4].unsqueeze(-1)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("function", "gate"), [(selective, "other"), (looked_up, None)])
def test_what_reads_a_gated_signal_gates(
    function: Callable[[Tensor], Tensor], gate: str | None, graph_of: Callable[..., fx.GraphModule]
) -> None:
    forward = simplify(graph_of(function, X)).graph_module
    analyse(forward, explainable_inputs(forward), Composite("none"))
    (product,) = [node for node in forward.graph.nodes if node.target is torch.ops.aten.matmul.default]

    given = assignment(product)

    assert given is not None
    assert given.facts[GATE] == gate


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("function", "gate"),
    [
        (weighed, "other"),
        (glu, "self"),
        (recurrent, "other"),
        (squeeze_and_excite, "other"),
        (plain, None),
        (two_gates, None),
        (itself, None),
    ],
)
def test_the_activation_gates_what_is_none(
    function: Callable[[Tensor], Tensor], gate: str | None, graph_of: Callable[..., fx.GraphModule]
) -> None:
    forward = simplify(graph_of(function, X)).graph_module
    analyse(forward, explainable_inputs(forward), Composite("none"))
    products = [node for node in forward.graph.nodes if node.target is torch.ops.aten.mul.Tensor]

    (product,) = products
    given = assignment(product)
    assert given is not None
    assert given.facts[GATE] == gate
