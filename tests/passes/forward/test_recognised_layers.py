"""Layers that are written out in primitives become the layers that they are."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.passes.forward import recognise_dense_layers, recognise_functions, recognise_layer_norms
from lrp_compiler.passes.graph import simplify

pytestmark = pytest.mark.sampled(4)

X = torch.randn(3, 4, 6, dtype=torch.float64)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(-1, keepdim=True)
    return centred, centred.pow(2).mean(-1, keepdim=True) + 1e-5


def by_root(x: Tensor) -> Tensor:
    centred, variance = moments(x)
    return centred / variance.sqrt()


def by_reciprocal_root(x: Tensor) -> Tensor:
    centred, variance = moments(x)
    return torch.rsqrt(variance) * centred


def by_reciprocal(x: Tensor) -> Tensor:
    centred, variance = moments(x)
    return centred * variance.sqrt().reciprocal()


def by_power(x: Tensor) -> Tensor:
    centred, variance = moments(x)
    return centred * variance**-0.5


def by_division(x: Tensor) -> Tensor:
    centred, variance = moments(x)
    return centred * (1 / variance.sqrt())


def by_spread(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5)


class Written(nn.Module):
    """A layer norm in primitives."""

    def __init__(self, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.normalise = normalise
        self.weight = nn.Parameter(torch.randn(6, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(6, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias + self.normalise(x) * self.weight


NORMS = (by_root, by_reciprocal_root, by_reciprocal, by_power, by_division, by_spread)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("normalise", NORMS, ids=lambda function: function.__name__)
def test_a_layer_norm_in_primitives_is_a_layer_norm(normalise: Callable, graph_of: Callable, targets: Callable) -> None:
    model = Written(normalise)

    result = recognise_layer_norms(simplify(graph_of(model, X)).graph_module)

    assert targets(result.graph_module) == ["layer_norm"]
    wanted = functional.layer_norm(X, [6], model.weight, model.bias, 1e-5)
    torch.testing.assert_close(result.graph_module(X)[0], wanted)


def test_a_norm_whose_parts_are_read_elsewhere_keeps_them(graph_of: Callable, targets: Callable) -> None:
    def model(x: Tensor) -> Tensor:
        normalised = by_root(x)
        return normalised * torch.arange(6.0, dtype=x.dtype) + normalised + x.mean(-1, keepdim=True)

    result = recognise_layer_norms(simplify(graph_of(model, X)).graph_module)

    assert targets(result.graph_module).count("layer_norm") == 1
    torch.testing.assert_close(result.graph_module(X)[0], model(X))


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        (lambda x: (x - x.mean(1, keepdim=True)) / (moments(x)[1]).sqrt(), "the mean of its squares"),
        (lambda x: moments(x)[0] * moments(x)[1].sqrt(), ""),
        (lambda x: x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt(), ""),
        (lambda x: moments(x)[0] / (moments(x.sin())[1]).sqrt(), "the mean of its squares"),
        (
            lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=1, keepdim=True) + 1e-5).sqrt(),
            "the mean of its squares",
        ),
        (
            lambda x: (d := moments(x)[0]) / (d.pow(2).sum(-1, keepdim=True) / 5 + 1e-5).sqrt(),
            "the mean of its squares",
        ),
        (
            lambda x: (d := x - x.mean(1, keepdim=True)) / (d.pow(2).mean(1, keepdim=True) + 1e-5).sqrt(),
            "its mean is not over the last dims",
        ),
        (
            lambda x: (d := moments(x)[0]) / (d.pow(2).mean((1, 2), keepdim=True) + 1e-5).sqrt(),
            "its variance is over other dims than its mean",
        ),
    ],
    ids=[
        "another dim's mean",
        "times the root",
        "of the root mean square",
        "another's spread",
        "corrected",
        "sum over five",
        "not the last dim",
        "over more dims",
    ],
)
def test_what_is_nearly_a_layer_norm_is_none(model: Callable, missing: str, graph_of: Callable) -> None:
    module = simplify(graph_of(model, X)).graph_module

    result = recognise_layer_norms(module)

    assert not result.modified
    # What is not centred, or not divided by a root, is nowhere near.
    assert [(name, missing in reason) for name, reason in result.declined] == (
        [(str(module.graph.output_node().prev), True)] if missing else []
    )


def test_a_product_and_a_vector_are_a_dense_layer(graph_of: Callable, targets: Callable) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5, dtype=torch.float64))
            self.bias = nn.Parameter(torch.randn(5, dtype=torch.float64))
            self.square = nn.Parameter(torch.randn(5, 5, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            y = self.bias + x @ self.weight
            return (y @ self.square) @ self.square

    model = Model()
    wanted = model(X)

    result = recognise_dense_layers(graph_of(model, X))

    assert targets(result.graph_module) == ["linear", "linear", "linear"]
    torch.testing.assert_close(result.graph_module(X)[0], wanted)
    assert len(list(result.graph_module.graph.find_nodes(op="get_attr"))) == 3  # the square one once


def test_a_weight_whose_relevance_is_asked_for_stays_as_it_lies() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = Model().eval()
    x = torch.randn(2, 6)

    explainer = lrp.compile(model, (x,), target=1, wrt=("x", "weight"))

    relevance = explainer(x).relevance["weight"]
    torch.testing.assert_close(relevance[:, 1], (x * model.weight[:, 1]).sum(0), rtol=1e-3, atol=1e-5)
    assert relevance.shape == (6, 5)


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


@pytest.mark.sampled(16)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_written_out_is_the_op_that_it_is(function: Callable, graph_of: Callable, targets: Callable) -> None:
    result = recognise_functions(simplify(graph_of(lambda x: function(x.sin()).cos(), X)).graph_module)

    assert targets(result.graph_module) == ["sin", FUNCTIONS[function], "cos"]
    torch.testing.assert_close(result.graph_module(X)[0], function(X.sin()).cos(), rtol=1e-6, atol=1e-6)


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
