"""Activations that are written out in primitives become the functions that they are."""

import math
from collections.abc import Callable

import pytest
import torch
from support.whole import Between
from torch import Tensor
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.passes.forward import recognise_functions
from lrp_compiler.passes.graph import simplify

pytestmark = pytest.mark.sampled(4)

X = torch.randn(3, 4, 6, dtype=torch.float64)


def gelu_of_exporters(x: Tensor) -> Tensor:
    return (x * (torch.erf(x / 1.4142135381698608) + 1.0)) * 0.5


def gelu_with_the_half_first(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x * 0.7071067690849304))


def gelu_by_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def silu(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * x


def silu_by_exponentials(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def hardswish(x: Tensor) -> Tensor:
    return x * torch.clamp(x + 3, 0, 6) / 6


def hardswish_of_exporters(x: Tensor) -> Tensor:
    return x * functional.hardsigmoid(x)


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(functional.softplus(x))


FUNCTIONS = {
    gelu_of_exporters: "gelu",
    gelu_with_the_half_first: "gelu",
    gelu_by_tanh: "gelu",
    silu: "silu",
    silu_by_exponentials: "silu",
    hardswish: "hardswish",
    hardswish_of_exporters: "hardswish",
    mish: "mish",
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_written_out_is_the_op_that_it_is(function: Callable, graph_of: Callable, targets: Callable) -> None:
    result = recognise_functions(simplify(graph_of(lambda x: function(x.sin()).cos(), X)).graph_module)

    assert targets(result.graph_module) == ["sin", FUNCTIONS[function], "cos"]
    torch.testing.assert_close(result.graph_module(X)[0], function(X.sin()).cos(), rtol=1e-6, atol=1e-6)


SIGMOIDS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "1 / (1 + exp(-x))": (lambda x: 1 / (1 + torch.exp(-x)), ["sigmoid"]),
    "(exp(-1 x) + 1) ** -1": (lambda x: torch.reciprocal(torch.exp(x * -1.0) + 1.0), ["sigmoid"]),
    "a negative power": (lambda x: (1 + torch.exp(-x)) ** -1, ["sigmoid"]),
    "of the negative": (lambda x: torch.reciprocal(torch.exp(x) + 1), ["neg", "sigmoid"]),
}


@pytest.mark.parametrize("name", SIGMOIDS)
def test_a_sigmoid_written_out_is_one_and_its_relevance_a_number(
    name: str, graph_of: Callable, targets: Callable
) -> None:
    """In float32 exp overflows from 89 on; the forward does not."""
    function, names = SIGMOIDS[name]

    found = recognise_functions(simplify(graph_of(lambda x: function(x.sin()).cos(), X)).graph_module)

    assert targets(found.graph_module) == ["sin", *names, "cos"]
    torch.testing.assert_close(found.graph_module(X)[0], function(X.sin()).cos(), rtol=1e-6, atol=1e-6)

    x = torch.tensor([[-200.0, -3.0, 0.5, 200.0]])
    sign = -1 if name == "of the negative" else 1
    explained, plain = (
        lrp.compile(Between(one).eval(), (x,), composite="epsilon", target=0)(x)
        for one in (function, lambda z: torch.sigmoid(sign * z))
    )
    torch.testing.assert_close(explained.output, plain.output)
    assert explained.relevance["x"].isfinite().all()
    torch.testing.assert_close(explained.relevance["x"], plain.relevance["x"])


@pytest.mark.parametrize(
    ("function", "reasons"),
    [
        # Of a million points between −7 and 7 the largest differences are 0.0203 and 0.0030.
        (lambda x: x * torch.sigmoid(1.702 * x), ["it differs from gelu by up to 0.02"]),
        (lambda x: (0.5 * x * (1 + torch.erf(x / 1.4))).cos(), ["it differs from gelu by up to 0.003"]),
        (lambda x: x * torch.sigmoid(x.flip(0)), []),
        (lambda x: x * torch.sigmoid(x * torch.arange(6.0, dtype=x.dtype)), []),
        (lambda x: x + torch.sigmoid(x), []),
    ],
    ids=["another slope", "a rounded constant", "of another element", "a slope for each channel", "a sum"],
)
def test_what_is_nearly_such_a_function_is_none(function: Callable, reasons: list[str], graph_of: Callable) -> None:
    result = recognise_functions(simplify(graph_of(function, X)).graph_module)

    assert not result.modified
    assert [reason for _, reason in result.declined] == reasons


def test_what_turns_out_to_be_part_of_a_function_is_not_said_to_be_left(graph_of: Callable) -> None:
    result = recognise_functions(simplify(graph_of(gelu_by_tanh, X)).graph_module)

    assert result.modified
    assert result.declined == ()


def test_looking_for_functions_fixes_no_open_size(graph_of: Callable) -> None:
    """A constant factor of lower rank whose first size is that of the example's batch."""
    weight = torch.randn(3, 6, dtype=torch.float64)
    graph = graph_of(lambda x: weight.cos() * x, torch.randn(3, 3, 6, dtype=torch.float64), dynamic=True)

    recognise_functions(graph)

    (x,) = graph.graph.find_nodes(op="placeholder")
    assert x.meta["val"].shape[0].node.maybe_as_int() is None
