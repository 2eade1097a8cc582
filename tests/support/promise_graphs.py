"""The paper's example graphs for promises, as networks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lrp_compiler as lrp

WIDTH = 6


class Graph(nn.Module):
    """A function of x and of dense layers A, B, C, …."""

    def __init__(self, function: Callable[..., Tensor], layers: int) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def basic_chain(x: Tensor, *layers: nn.Module) -> Tensor:
    """A → B → C → D → E: each needs the value of the one below."""
    for layer in layers:
        x = layer(x).relu()
    return x


def promise_tree(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, d: nn.Module, e: nn.Module) -> Tensor:
    """Sums of sums: what the outer sum is promised from is promised itself."""
    left = a(x).relu() + b(x).relu()
    right = c(left).relu() + left
    return e(right.relu() + d(right).relu()).relu()


def residual_deadlock(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    """A sum whose one operand is computed from the other: at run time each would wait for the other."""
    h = a(x).relu()
    h = h + b(h).relu()
    return c(h + h.relu())


def diamond(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    """One value, two branches, one sum."""
    h = a(x).relu()
    return b(h).relu() + c(h).relu()


def two_origins(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    """A value that the rules of two consumers, and its own, ask for."""
    h = a(x)
    return (b(h.relu()) + c(h.relu())) * 0.5


def through_negation(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    """A value that must come back with its sign."""
    return b((-a(x)).relu())


def through_alpha(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    """A sum with a factor."""
    h = a(x)
    return b(torch.add(h, h.relu(), alpha=-2.5))


def through_masked_fill(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    """What is filled in takes nothing."""
    h = a(x)
    return b(h.masked_fill(torch.arange(WIDTH) % 3 == 0, 0.0).relu())


GRAPHS: list[tuple[Callable[..., Tensor], int]] = [
    (basic_chain, 5),
    (promise_tree, 5),
    (residual_deadlock, 3),
    (diamond, 3),
    (two_origins, 3),
    (through_negation, 2),
    (through_alpha, 2),
    (through_masked_fill, 2),
]


def build(function: Callable[..., Tensor], layers: int) -> tuple[Graph, Tensor]:
    torch.manual_seed(1)
    return Graph(function, layers).double().eval(), torch.randn(3, WIDTH, dtype=torch.float64)


def compiled(function: Callable[..., Tensor], layers: int, budget: float = 1.0, **options: Any) -> lrp.Explainer:
    model, x = build(function, layers)
    composite = lrp.composites.epsilon(epsilon=1e-13)
    return lrp.compile(model, (x,), composite=composite, memory_budget=budget, **options)
