"""Normalisations written out in primitives are recognised by their structure, gates are not mistaken for them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lrp_compiler.passes.assign.freeze_statistics import statistics
from lrp_compiler.passes.graph.simplify import simplify

X = torch.randn(2, 3, 8)
WEIGHT = nn.Parameter(torch.randn(8))


def rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rms_norm_in_another_precision(x: Tensor) -> Tensor:
    wide = x.to(torch.float64)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rms_norm_divided(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)


def layer_norm_by_variance(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True, unbiased=False) + 1e-5) ** -0.5


def l2_normalise(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=-1)


def z_score(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)


NORMALISATIONS = [
    z_score,
    rms_norm,
    rms_norm_in_another_precision,
    rms_norm_divided,
    layer_norm,
    layer_norm_by_variance,
    l2_normalise,
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("normalise", NORMALISATIONS, ids=lambda function: function.__name__)
def test_the_statistic_of_a_written_out_normalisation_is_frozen(normalise: Callable, graph_of: Callable) -> None:
    forward = simplify(graph_of(normalise, X)).graph_module

    frozen = statistics(forward)

    assert len(frozen) == 1
    ((product, factor),) = frozen
    assert product.meta["val"].shape == X.shape
    # `normalize` expands its norm before it divides.
    assert factor.meta["val"].shape[-1] == 1 or factor.target is torch.ops.aten.expand.default


@pytest.mark.sampled(4)
@pytest.mark.parametrize("normalise", NORMALISATIONS, ids=lambda function: function.__name__)
def test_an_affine_part_is_not_frozen_with_it(normalise: Callable, graph_of: Callable) -> None:
    forward = simplify(graph_of(lambda x: normalise(x) * torch.ones(8) + torch.ones(8), X)).graph_module

    assert len(statistics(forward)) == 1


def swiglu(x: Tensor) -> Tensor:
    return nn.functional.silu(x) * (x * 2)


def squeeze_and_excite(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(-1, keepdim=True))


def gate_with_a_root(x: Tensor) -> Tensor:
    return x * (x.abs() + 1).sqrt()


def mean_pooling(x: Tensor) -> Tensor:
    return x / 3 * x.mean(-1, keepdim=True)


def attention(x: Tensor) -> Tensor:
    return torch.softmax(x @ x.transpose(-1, -2) / 8**0.5, -1) @ x


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "function", [swiglu, squeeze_and_excite, gate_with_a_root, mean_pooling, attention], ids=lambda f: f.__name__
)
def test_a_gate_is_no_statistic(function: Callable, graph_of: Callable) -> None:
    assert statistics(simplify(graph_of(function, X)).graph_module) == set()


def test_a_batch_norm_of_the_batch_is_frozen(graph_of: Callable) -> None:
    norm = nn.InstanceNorm1d(3, affine=True)
    batch = nn.BatchNorm1d(3, track_running_stats=False)

    assert statistics(simplify(graph_of(norm, X)).graph_module) == set()  # a layer norm, which has its own rule
    assert len(statistics(simplify(graph_of(batch, X)).graph_module)) == 1


def test_the_statistic_of_another_tensor_is_no_normalisation(graph_of: Callable) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return x * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)

    assert statistics(simplify(graph_of(function, X, X + 1)).graph_module) == set()
