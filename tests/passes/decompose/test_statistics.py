"""Norms, variances, normalisations, order statistics and products: as torch's own ops, on any shape."""

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


def stable_sort(draw: st.DrawFn) -> Any:
    x = drawn(draw, draw(small), draw(st.integers(1, 16)), ties=True)
    return (x,), {"stable": True, "dim": dim_of(draw, 2), "descending": draw(st.booleans())}


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


def product(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw, 0, 2), draw(st.integers(1, 9)), *shape_of(draw, 0, 1))
    dtype = draw(st.sampled_from([None, torch.float64]))
    return (x, dim_of(draw, x.dim()), draw(st.booleans())), {"dtype": dtype}


def running_product(draw: st.DrawFn) -> Any:
    (x, dim, _), options = product(draw)
    return (x, dim), options


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
    aten.sort.stable: stable_sort,
    aten.kthvalue.default: kth,
    aten.median.dim: median,
    aten.median.default: of_all,
    aten.cdist.default: distances,
    aten._cdist_forward.default: distances,
    aten.prod.dim_int: product,
    aten.prod.default: of_all,
    aten.cumprod.default: running_product,
}
"""Op → random arguments of it; an op without any has no business in the table."""


@pytest.mark.parametrize("op", DECOMPOSITIONS, ids=str)
def test_it_computes_what_torch_does(op: Any) -> None:
    computes_the_same(op, DECOMPOSITIONS[op], CASES[op])


@pytest.mark.xfail(strict=False, reason="written as the plain sort, which AVX keeps stable for up to 16 elements only")
def test_a_stable_sort_leaves_equals_in_their_order_however_many_there_are() -> None:
    x = torch.arange(64.0).remainder(5).reshape(2, 32)
    expected = x.sort(1, stable=True).indices
    if torch.equal(x.sort(1).indices, expected):
        pytest.skip("the plain sort of this CPU is stable")

    found = DECOMPOSITIONS[aten.sort.stable](x, stable=True, dim=1)[1]

    assert found.tolist() == expected.tolist()


@pytest.mark.xfail(strict=True, reason="torch multiplies integers as int64")
@pytest.mark.parametrize(
    ("op", "args"), [(aten.prod.dim_int, (0,)), (aten.prod.default, ()), (aten.cumprod.default, (0,))], ids=str
)
def test_a_product_of_small_integers_does_not_overflow(op: Any, args: tuple[int, ...]) -> None:
    x = torch.tensor([100_000, 100_000], dtype=torch.int32)

    found = DECOMPOSITIONS[op](x, *args)

    assert int(found.flatten()[-1]) == 10**10


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


@pytest.mark.parametrize("name", STATISTICS)
def test_a_normalisation_is_left_with_a_statistic_that_is_found(name: str, graph_of: Callable) -> None:
    function = STATISTICS[name]

    module = simplify(graph_of(function, X, dynamic=True)).graph_module

    assert len(frozen(module)) == 1
    assert not [node for node in module.graph.nodes if node.target in DECOMPOSITIONS]
    x = torch.randn(5, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_or_it_becomes_a_layer_norm(name: str, graph_of: Callable, targets: Callable) -> None:
    function = LAYERS[name]

    module = simplify(graph_of(function, X, dynamic=True)).graph_module

    assert targets(module).count("layer_norm") == 1
    assert not {"mean", "rsqrt", "sqrt"} & set(targets(module))
    x = torch.randn(5, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("correction", [0, 1])
def test_a_variance_may_be_that_of_a_batch_of_any_size(correction: int, graph_of: Callable) -> None:
    module = graph_of(lambda x: x.var(0, correction=correction), X, dynamic=True)

    x = torch.randn(7, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], x.var(0, correction=correction), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("length", "depth"), [(1, 0), (2, 1), (4, 2), (7, 3), (8, 3)])
def test_a_product_is_a_tree(length: int, depth: int, graph_of: Callable, targets: Callable) -> None:
    """One product for each level, of the halves."""
    module = graph_of(lambda x: x.prod(1), torch.ones(2, length, dtype=torch.float64), dynamic=True)

    assert targets(module).count("mul") == depth
    x = torch.randn(3, length, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], x.prod(1), rtol=1e-13, atol=1e-13)


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
