"""Norms, variances, normalisations, order statistics and products: as torch's own ops, on any shape."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from support.drawn import Case, computes_the_same, dim_of, drawn, maybe, shape_of, small
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.assign.freeze_statistics import statistics as frozen
from lrp_compiler.passes.decompose.statistics import DECOMPOSITIONS
from lrp_compiler.passes.graph import simplify

aten = torch.ops.aten
functional = nn.functional
INFINITE = float("inf")


def distinct(draw: st.DrawFn, *shape: int) -> Tensor:
    """No two elements alike, so that there is one place of each."""
    order = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = torch.Size(shape).numel()
    return (torch.randperm(count, generator=order).double() - count / 2).reshape(shape)


def dims_of(draw: st.DrawFn, rank: int) -> Any:
    """`None`, a dim, several, or an empty list, which means all of them."""
    several = st.lists(st.integers(0, rank - 1), max_size=rank, unique=True)
    return draw(st.one_of(st.none(), several.map(lambda dims: [dim - rank * (dim % 2) for dim in dims])))


def epsilon(draw: st.DrawFn) -> float:
    return draw(st.sampled_from([1e-5, 0.1, 0.0]))


def rms_norm(draw: st.DrawFn) -> Any:
    shape = shape_of(draw, 1, 4)
    normalised = shape[-draw(st.integers(1, len(shape))) :]
    weight = maybe(draw, lambda: drawn(draw, *normalised))
    return (drawn(draw, *shape), normalised, weight, draw(st.sampled_from([None, 1e-5, 0.1]))), {}


def group_norm(draw: st.DrawFn) -> Any:
    groups = draw(small)
    channels = groups * draw(small)
    x = drawn(draw, draw(small), channels, *shape_of(draw, 1, 2), 2)
    weight, bias = (maybe(draw, lambda: drawn(draw, channels)) for _ in range(2))
    return (x, groups, weight, bias, epsilon(draw)), {}


def native_group_norm(draw: st.DrawFn) -> Any:
    (x, groups, weight, bias, eps), _ = group_norm(draw)
    batch, channels, *spatial = x.shape
    return (x, weight, bias, batch, channels, torch.Size(spatial).numel(), groups, eps), {}


def native_layer_norm(draw: st.DrawFn) -> Any:
    shape = [*shape_of(draw, 1, 3), 2]
    normalised = shape[-draw(st.integers(1, len(shape))) :]
    weight, bias = (maybe(draw, lambda: drawn(draw, *normalised)) for _ in range(2))
    return (drawn(draw, *shape), normalised, weight, bias, epsilon(draw)), {}


def instance_norm(draw: st.DrawFn) -> Any:
    channels = draw(small)
    x = drawn(draw, draw(small), channels, *shape_of(draw, 1, 2), 2)
    weight, bias = (maybe(draw, lambda: drawn(draw, channels)) for _ in range(2))
    kept = draw(st.booleans())
    statistics = [drawn(draw, channels), drawn(draw, channels).abs() + 0.5] if kept else [None, None]
    return (x, weight, bias, *statistics, not kept, 0.1, epsilon(draw), True), {}


def batch_norm(draw: st.DrawFn) -> Any:
    channels = draw(small)
    x = drawn(draw, 2, channels, *shape_of(draw, 0, 2))
    weight, bias = (maybe(draw, lambda: drawn(draw, channels)) for _ in range(2))
    return (x, weight, bias, True, 0.1, epsilon(draw)), {}


def vector_norm(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw, 1, 4))
    order = draw(st.sampled_from([2, 1, 0, 3, 2.5, 0.5, -1, -2, INFINITE, -INFINITE]))
    dtype = draw(st.sampled_from([None, torch.float64]))
    return (x, order, dims_of(draw, x.dim()), draw(st.booleans())), {"dtype": dtype}


def spread(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw, 1, 4))
    options = {"correction": draw(st.sampled_from([None, 0, 1, 0.5])), "keepdim": draw(st.booleans())}
    return (x, dims_of(draw, x.dim())), options


def of_all(draw: st.DrawFn) -> Any:
    return (drawn(draw, *shape_of(draw, 1, 4), ties=True),), {}


def kth(draw: st.DrawFn) -> Any:
    x = distinct(draw, *shape_of(draw, 1, 3))
    dim = dim_of(draw, x.dim())
    return (x, draw(st.integers(1, x.shape[dim])), dim, draw(st.booleans())), {}


def median(draw: st.DrawFn) -> Any:
    x = distinct(draw, *shape_of(draw, 1, 3))
    return (x, dim_of(draw, x.dim()), draw(st.booleans())), {}


def distances(draw: st.DrawFn) -> Any:
    lead, size = shape_of(draw, 0, 2), draw(small)
    left, right = (drawn(draw, *lead, draw(small), size) for _ in range(2))
    order = draw(st.sampled_from([0.0, 1.0, 2.0, 3.0, 0.5, INFINITE]))
    return (left, right, order, 2), {}  # 2: by differences, not by the rounder way of a matrix product


def whole_numbers(draw: st.DrawFn) -> Any:
    """Of few small ones the product still fits."""
    dtype = draw(st.sampled_from([torch.int32, torch.int64, torch.bool]))
    return drawn(draw, *shape_of(draw, 1, 3), ties=True).to(dtype), draw(st.sampled_from([torch.float64, torch.int64]))


def product(draw: st.DrawFn) -> Any:
    x, dtype = whole_numbers(draw)
    return (x, dim_of(draw, x.dim()), draw(st.booleans())), {"dtype": dtype}


def product_of_all(draw: st.DrawFn) -> Any:
    x, dtype = whole_numbers(draw)
    return (x,), {"dtype": dtype}


def running_product(draw: st.DrawFn) -> Any:
    (x, dim, _), options = product(draw)
    return (x, dim), options


def running_logsumexp(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw, 0, 3)) * draw(st.sampled_from([1, 1000]))
    return (x, dim_of(draw, x.dim()) if x.dim() else 0), {}


CASES: dict[Any, Case] = {
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.native_group_norm.default: native_group_norm,
    aten.native_layer_norm.default: native_layer_norm,
    aten.instance_norm.default: instance_norm,
    aten._native_batch_norm_legit.no_stats: batch_norm,
    aten.linalg_vector_norm.default: vector_norm,
    aten.var.correction: spread,
    aten.std.correction: spread,
    aten.var_mean.correction: spread,
    aten.max.default: of_all,
    aten.min.default: of_all,
    aten.kthvalue.default: kth,
    aten.median.dim: median,
    aten.median.default: of_all,
    aten.nanmedian.dim: median,
    aten.nanmedian.default: of_all,
    aten.cdist.default: distances,
    aten._cdist_forward.default: distances,
    aten.prod.dim_int: product,
    aten.prod.default: product_of_all,
    aten.cumprod.default: running_product,
    aten.logcumsumexp.default: running_logsumexp,
}
"""Op → random arguments of it; an op without any has no business in the table."""


@pytest.mark.slow
@pytest.mark.parametrize("op", DECOMPOSITIONS, ids=str)
def test_it_computes_what_torch_does(op: Any) -> None:
    computes_the_same(op, DECOMPOSITIONS[op], CASES[op])


def test_a_stable_sort_leaves_equals_in_their_order_however_many_there_are(graph_of: Callable) -> None:
    x = torch.arange(128.0).remainder(5).reshape(2, 64)

    module = graph_of(lambda x: x.sort(stable=True, dim=1)[1], x)

    assert module(x)[0].tolist() == [[i for k in range(5) for i in range(64) if row[i] == k] for row in x.tolist()]


@pytest.mark.parametrize(
    ("op", "args"), [(aten.prod.dim_int, (0,)), (aten.prod.default, ()), (aten.cumprod.default, (0,))], ids=str
)
@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([100_000, 100_000], dtype=torch.int32),
        torch.tensor([200, 200], dtype=torch.uint8),
        torch.ones(3) > 0,
    ],
)
def test_a_product_of_small_integers_does_not_overflow(op: Any, args: tuple[int, ...], x: Tensor) -> None:
    found = DECOMPOSITIONS[op](x, *args)

    assert found.dtype is torch.int64
    assert int(found.flatten()[-1]) == math.prod(x.tolist())


@pytest.mark.parametrize("op", [aten.median.dim, aten.nanmedian.dim])
def test_a_median_may_meet_what_is_no_number(op: Any) -> None:
    x = torch.tensor([[3.0, 1, 2, 5], [torch.nan, 1, 2, 0], [torch.nan, 4, torch.nan, torch.nan], [torch.nan] * 4])

    for found, expected in zip(DECOMPOSITIONS[op](x, 1), op(x, 1), strict=True):
        if expected.is_floating_point():
            torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("correction", [3, 4.5])
def test_a_variance_of_too_few_elements_is_none(correction: float) -> None:
    x = torch.tensor([[1.0, 2, 4], [5, 5, 5]])

    found = DECOMPOSITIONS[aten.var.correction](x, [1], correction=correction)

    torch.testing.assert_close(found, torch.var(x, 1, correction=correction), equal_nan=True)
    assert found[0].isinf()


# ---- In a graph of any batch size ----


WEIGHT, BIAS = (torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(2))
X = torch.randn(3, 6, 4, dtype=torch.float64)
STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "rms norm": lambda x: functional.rms_norm(x.transpose(1, 2), (6,), WEIGHT),
    "batch norm of the batch": lambda x: functional.batch_norm(x, None, None, WEIGHT, BIAS, True),
}
LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "group norm": lambda x: functional.group_norm(x, 3, WEIGHT, BIAS),
    "instance norm": lambda x: functional.instance_norm(x, weight=WEIGHT),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", STATISTICS)
def test_a_normalisation_is_left_with_a_statistic_that_is_found(name: str, graph_of: Callable) -> None:
    function = STATISTICS[name]

    module = simplify(graph_of(function, X, dynamic=True)).graph_module

    assert len(frozen(module)) == 1
    assert not [node for node in module.graph.nodes if node.target in DECOMPOSITIONS]
    x = torch.randn(5, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", LAYERS)
def test_or_it_becomes_a_layer_norm(name: str, graph_of: Callable, targets: Callable) -> None:
    function = LAYERS[name]

    module = simplify(graph_of(function, X, dynamic=True)).graph_module

    assert targets(module).count("layer_norm") == 1
    assert not {"mean", "rsqrt", "sqrt"} & set(targets(module))
    x = torch.randn(5, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("correction", [0, 1])
def test_a_variance_may_be_that_of_a_batch_of_any_size(correction: int, graph_of: Callable) -> None:
    module = graph_of(lambda x: x.var(0, correction=correction), X, dynamic=True)

    x = torch.randn(7, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], x.var(0, correction=correction), rtol=1e-13, atol=1e-13)


OPEN: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda x: x * x.prod(0, keepdim=True),
    "running product": lambda x: x.cumprod(0),
    "running logsumexp": lambda x: x.logcumsumexp(0),
    "median": lambda x: x * x.median(0, keepdim=True)[0],
    "k-th": lambda x: x * x.kthvalue(2, 0, keepdim=True)[0],
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", OPEN)
def test_a_dim_of_open_size_stays_open(name: str, graph_of: Callable) -> None:
    module = graph_of(OPEN[name], X, dynamic=True)

    x = torch.randn(7, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], OPEN[name](x), rtol=1e-13, atol=1e-13)


def test_every_factor_of_a_product_gets_the_same_share() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.prod(2)

    x = torch.randn(3, 2, 4, dtype=torch.float64)
    explainer = lrp.compile(Product().eval(), (x,), composite="attnlrp", target=1)

    relevance = explainer(x).relevance["x"]

    expected = torch.zeros_like(x)
    expected[:, 1] = x[:, 1].prod(1, keepdim=True) / 4
    torch.testing.assert_close(relevance, expected, rtol=1e-13, atol=1e-15)
