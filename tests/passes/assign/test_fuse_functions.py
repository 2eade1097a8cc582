"""Elementwise regions that are one function of one activation."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional

from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.assign.fuse_functions import fuse_functions
from lrp_compiler.passes.graph import Declined
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.simplify import simplify
from lrp_compiler.rules import FUNCTION, SLOPE

X = torch.randn(2, 3)


def tried(function: Callable, graph_of: Callable) -> tuple[fx.GraphModule, list[Declined]]:
    forward = simplify(graph_of(function, X)).graph_module
    mark_active(forward, [node.meta["input"] for node in forward.graph.find_nodes(op="placeholder")])
    return forward, fuse_functions(forward)


def fused(function: Callable, graph_of: Callable) -> dict[str, fx.Node]:
    """Ends of regions, by the name of their root."""
    forward, _ = tried(function, graph_of)
    ends = {node: assignment(node) for node in forward.graph.nodes}
    return {given.arguments["self"].name: node for node, given in ends.items() if given and given.target == FUNCTION}


def gelu_written_out(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def hard_swish(x: Tensor) -> Tensor:
    return x * functional.relu6(x + 3) / 6


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(functional.softplus(x))


def logistic(x: Tensor) -> Tensor:
    return x * (1 - x)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("function", "slope"),
    # The division by 6 at the end of a hard-swish is linear and stands outside its region.
    [(gelu_written_out, 0.5), (swish, 0.5), (hard_swish, 3.0), (mish, math.tanh(math.log(2))), (logistic, 1.0)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_activation_written_out_is_one_function_of_its_input(
    function: Callable, slope: float, graph_of: Callable
) -> None:
    ends = fused(lambda x: function(x.sin()), graph_of)

    assert ends.keys() == {"sin"}
    assert assignment(ends["sin"]).facts[SLOPE] == pytest.approx(slope, rel=1e-6)


def test_a_function_with_a_value_at_zero_has_no_slope(graph_of: Callable) -> None:
    ends = fused(lambda x: (lambda y: y.exp() + y.cos())(x.sin()), graph_of)

    assert assignment(ends["sin"]).facts[SLOPE] is None


def test_a_constant_that_is_divided_is_no_linear_step(graph_of: Callable) -> None:
    ends = fused(lambda x: (lambda y: y + torch.div(torch.ones(3), y))(x.sin()), graph_of)

    assert ends.keys() == {"sin"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x,
        lambda x: x.sin() + 2 * x.sin(),
        lambda x: (x.sin() - x.sin() * 0.5) / 3,
        lambda x: x.sin() @ torch.ones(3, 3) + x.sin(),
        lambda x: x.sin() * x.sin().sum(1, keepdim=True),
        lambda x: x.sin() * x.sin().flip(1),
    ],
    ids=["x + x", "weighted", "differences", "residual", "reduction", "rearranged"],
)
def test_what_is_linear_or_mixes_elements_is_left_to_the_rules_of_sums_and_products(
    function: Callable, graph_of: Callable
) -> None:
    assert fused(function, graph_of) == {}


def test_what_is_linear_says_so(graph_of: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        h = x.sin()
        return h - h * 0.5

    assert tried(function, graph_of)[1] == [("sub", "all that lies between sin and it is linear")]


def test_a_residual_addition_around_an_activation_stays_an_addition(graph_of: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.relu(x @ torch.ones(3, 3)) @ torch.ones(3, 3)

    assert fused(function, graph_of) == {}


def test_two_functions_in_a_row_are_two_regions(graph_of: Callable) -> None:
    ends = fused(lambda x: swish(swish(x.sin()) @ torch.ones(3, 3)), graph_of)

    assert len(ends) == 2
