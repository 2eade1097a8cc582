"""Layer norms that are written out in primitives become the layers that they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_compiler.passes.forward import recognise_layer_norms
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
