"""Indexed writes: as torch's own ops, on any shape; forms that have a rule of their own stay whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from support.drawn import Case, computes_the_same, dim_of, drawn, shape_of, small
from torch import Tensor

from lrp_compiler.passes.decompose.indexing import DECOMPOSITIONS

aten = torch.ops.aten


def places(draw: st.DrawFn, size: int, count: int, least: int = 0) -> Tensor:
    """Positions of a dim, some of them perhaps named twice."""
    return torch.tensor(draw(st.lists(st.integers(least, size - 1), min_size=count, max_size=count)), dtype=torch.int64)


def different(draw: st.DrawFn, size: int, signed: bool = False) -> Tensor:
    """Positions of a dim, each named once; with `signed` some are counted from the end."""
    chosen = draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True))
    return torch.tensor([place - size * (signed and draw(st.booleans())) for place in chosen], dtype=torch.int64)


def older_indices(draw: st.DrawFn) -> Any:
    """Masks of bytes, places of int32; both in one where torch takes them so."""
    x = drawn(draw, 3, 4, 2)
    mask = (drawn(draw, *draw(st.sampled_from([(3,), (3, 4)]))) > 0).to(torch.uint8)
    places = torch.tensor([1, -1], dtype=torch.int32)
    given = st.sampled_from([[mask], [mask, None], [None, places], [places, places], [places, None, places.long()]])
    return (x, draw(given)), {}


def index_put(draw: st.DrawFn) -> Any:
    """Under a mask, or along one dim."""
    x = drawn(draw, *shape_of(draw, 1, 4))
    dim = draw(st.integers(0, x.dim() - 1))
    inner = list(x.shape[dim + 1 :])
    if draw(st.booleans()):
        rank = draw(st.integers(1, x.dim() - dim))
        mask = drawn(draw, *x.shape[dim : dim + rank]) > 0
        values = drawn(draw, *x.shape[:dim], int(mask.sum()), *x.shape[dim + rank :])
        if values.numel() > 1 and draw(st.booleans()):  # of a single value torch asks for a mask of booleans
            return (x, [*[None] * dim, mask.to(torch.uint8)], values, draw(st.booleans())), {}
        return (x, [*[None] * dim, mask], broadcast(draw, list(x.shape[dim + rank :]))), {}
    accumulate = draw(st.booleans())
    size = x.shape[dim]
    index = places(draw, size, draw(small), -size) if accumulate else different(draw, size, signed=True)
    return (x, [*[None] * dim, index], broadcast(draw, [*x.shape[:dim], len(index), *inner]), accumulate), {}


def broadcast(draw: st.DrawFn, shape: list[int]) -> Tensor:
    """Values that fit this shape: some dims are 1, the first ones may be missing."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return drawn(draw, *(draw(st.sampled_from([1, size])) for size in kept))


def unchecked_index_put(draw: st.DrawFn) -> Any:
    """Any number of indices."""
    x = drawn(draw, *shape_of(draw, 2, 3))
    count = draw(small)
    rows, columns = (places(draw, size, count) for size in x.shape[:2])
    return (x, [rows, columns], drawn(draw, count, *x.shape[2:]), True), {}


def index_add(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw))
    dim = dim_of(draw, x.dim())
    index = places(draw, x.shape[dim], draw(small))
    source = drawn(draw, *moved(x, dim, len(index)))
    return (x, dim, index, source), {"alpha": draw(st.sampled_from([1, 2.5]))}


def index_copy(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw))
    dim = dim_of(draw, x.dim())
    index = different(draw, x.shape[dim])
    return (x, dim, index, drawn(draw, *moved(x, dim, len(index)))), {}


def index_fill(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw))
    dim = dim_of(draw, x.dim())
    return (x, dim, places(draw, x.shape[dim], draw(small), -x.shape[dim]), 7.0), {}


def index_fill_by_a_tensor(draw: st.DrawFn) -> Any:
    (x, dim, index, _), _ = index_fill(draw)
    return (x, dim, index, drawn(draw)), {}


def moved(x: Tensor, dim: int, size: int) -> list[int]:
    """The shape, with another size of one dim."""
    shape = list(x.shape)
    shape[dim] = size
    return shape


def masked_scatter(draw: st.DrawFn) -> Any:
    shape = shape_of(draw, 1, 3)
    smaller = [[draw(st.sampled_from([1, size])) for size in shape] for _ in range(2)]
    mask = drawn(draw, *smaller[0]) > draw(st.sampled_from([0, 9]))  # of all places, perhaps none
    count = draw(st.integers(0, 2)) + (torch.Size(shape).numel() if mask.any() else 0)
    return (drawn(draw, *smaller[1]), mask, drawn(draw, count)), {}


def scatter_reduce(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw))
    dim = dim_of(draw, x.dim())
    sent = [size if place == dim % x.dim() else draw(st.integers(1, size)) for place, size in enumerate(x.shape)]
    sent[dim] = draw(small)
    count = torch.Size(sent).numel()
    index = places(draw, x.shape[dim], count).reshape(sent)
    source = drawn(draw, *(size + draw(st.integers(0, 1)) for size in sent))
    reduce = draw(st.sampled_from(["sum", "mean", "amax", "amin"]))
    # An extreme of what is there and what is sent has a rule as it is.
    return (x, dim, index, source, reduce), {"include_self": draw(st.booleans()) and reduce in ("sum", "mean")}


def scatter_by_name(draw: st.DrawFn) -> Any:
    (x, dim, index, source, _), _ = scatter_reduce(draw)
    return (x, dim, index, source), {"reduce": draw(st.sampled_from(["add", "multiply"]))}


def scatter_a_number_by_name(draw: st.DrawFn) -> Any:
    (x, dim, index, _), options = scatter_by_name(draw)
    return (x, dim, index, 1.5), options


def index_reduce(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw))
    dim = dim_of(draw, x.dim())
    index = places(draw, x.shape[dim], draw(small))
    source = drawn(draw, *moved(x, dim, len(index)))
    reduce = draw(st.sampled_from(["prod", "mean", "amax", "amin"]))
    return (x, dim, index, source, reduce), {"include_self": draw(st.booleans())}


def bags(draw: st.DrawFn) -> Any:
    """Bags, empty ones among them."""
    rows, count, mode = draw(st.integers(2, 5)), draw(st.integers(1, 6)), draw(st.integers(0, 2))
    indices = places(draw, rows, count)
    starts = torch.tensor([0, *sorted(draw(st.lists(st.integers(0, count), max_size=3)))])
    closed = draw(st.booleans())
    offsets = torch.cat([starts, torch.tensor([count])]) if closed else starts
    weights = drawn(draw, count) if mode == 0 and draw(st.booleans()) else None
    padding = draw(st.integers(-1, rows - 1))
    return (drawn(draw, rows, 3), indices, offsets, False, mode, False, weights, closed, padding), {}


def named_bags(draw: st.DrawFn) -> Any:
    (*args, padding), _ = bags(draw)
    return (*args, None if padding < 0 else padding), {}


CASES: dict[Any, Case] = {
    aten.index.Tensor: older_indices,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: unchecked_index_put,
    aten.index_add.default: index_add,
    aten.index_copy.default: index_copy,
    aten.index_fill.int_Scalar: index_fill,
    aten.index_fill.int_Tensor: index_fill_by_a_tensor,
    aten.masked_scatter.default: masked_scatter,
    aten.scatter_reduce.two: scatter_reduce,
    aten.scatter.reduce: scatter_by_name,
    aten.scatter.value_reduce: scatter_a_number_by_name,
    aten.index_reduce.default: index_reduce,
    aten._embedding_bag.default: bags,
    aten.embedding_bag.padding_idx: named_bags,
}
"""Op → random arguments of it; an op without any has no business in the table."""


@pytest.mark.slow
@pytest.mark.parametrize("op", DECOMPOSITIONS, ids=str)
def test_it_computes_what_torch_does(op: Any) -> None:
    # Of a bag's results all but the first serve torch's own backward.
    computes_the_same(op, DECOMPOSITIONS[op], CASES[op], [0] if "embedding_bag" in op._opname else None)


def test_a_fill_may_be_counted_from_the_end() -> None:
    x = torch.arange(6.0).reshape(2, 3)

    found = DECOMPOSITIONS[aten.index_fill.int_Scalar](x, 1, torch.tensor([-1]), 7.0)

    assert found.tolist() == x.index_fill(1, torch.tensor([-1]), 7.0).tolist() == [[0, 1, 7], [3, 4, 7]]


def test_a_mask_may_be_larger_than_what_it_masks() -> None:
    x, mask, source = torch.zeros(1, 2), torch.tensor([[True, False], [True, True]]), torch.arange(1.0, 5.0)

    found = DECOMPOSITIONS[aten.masked_scatter.default](x, mask, source)

    assert found.tolist() == x.masked_scatter(mask, source).tolist() == [[1, 0], [2, 3]]


# ---- What cannot be written out so is let be ----

X = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
ROWS, COLUMNS = torch.tensor([0, 2]), torch.tensor([1, 3])
NUMBER, PAIR = torch.tensor(5.0, dtype=torch.float64), torch.tensor([5.0, 6.0], dtype=torch.float64)
MASK = torch.tensor([True, False, True])
DECLINED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "places of two dims": (aten.index_put.default, (X, [ROWS, COLUMNS], PAIR)),
    "a matrix of places": (aten.index_put.default, (X, [ROWS.reshape(1, 2)], NUMBER)),
    "a mask and places": (aten.index_put.default, (X, [MASK, COLUMNS], PAIR)),
    "a value for every masked place": (aten.index_put.default, (X, [MASK, None], torch.ones(2, 4).double())),
    "added under a mask": (aten.index_put.default, (X, [MASK], NUMBER, True)),
    "read under a mask": (aten.index.Tensor, (X, [MASK])),
    "read at places": (aten.index.Tensor, (X, [ROWS, COLUMNS])),
    "the largest of what is sent": (aten.scatter_reduce.two, (X, 0, ROWS.reshape(1, 2), PAIR.reshape(1, 2), "amax")),
    "a product of what is sent": (aten.scatter_reduce.two, (X, 0, ROWS.reshape(1, 2), PAIR.reshape(1, 2), "prod")),
}


@pytest.mark.parametrize("name", DECLINED)
def test_other_forms_are_let_be(name: str) -> None:
    op, args = DECLINED[name]
    op(*args)  # torch takes it

    assert DECOMPOSITIONS[op](*args) is NotImplemented


def put(*indices: Tensor | None, value: Tensor = NUMBER, accumulate: bool = False) -> Callable[[Tensor], Tensor]:
    return lambda x: aten.index_put.default(x, list(indices), value, accumulate)


WRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "under a mask": (lambda x: put(x > 1)(x), "where"),
    "along one dim": (put(None, torch.tensor([1, -1])), "scatter"),
    "added along one dim": (put(None, torch.tensor([1, 1, -1]), accumulate=True), "scatter_add"),
    "added": (lambda x: x.index_add(1, COLUMNS, x[:, :2]), "scatter_add"),
    "copied": (lambda x: x.index_copy(1, COLUMNS, x[:, :2]), "scatter"),
    "filled": (lambda x: x.index_fill(1, COLUMNS, 0.5), "where"),
    "masked": (lambda x: x.masked_scatter(x > 1, x.exp()), "where"),
    "a sum": (lambda x: x.scatter_reduce(1, x.long() % 3, x, "sum"), "scatter_add"),
    "added under a mask": (lambda x: put(x > 1, accumulate=True)(x), "index_put"),
    "the largest of what is sent": (lambda x: x.scatter_reduce(1, x.long() % 3, x, "amax"), "scatter_reduce"),
    "at places of two dims": (put(ROWS, COLUMNS, value=PAIR), "index_put"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", WRITTEN)
def test_in_a_graph_few_ops_are_left_that_write(name: str, graph_of: Callable, targets: Callable) -> None:
    function, expected = WRITTEN[name]

    module = graph_of(function, X, dynamic=True)

    names = set(targets(module))
    assert expected in names
    assert names & {op._opname for op in DECOMPOSITIONS} <= {expected}
    x = torch.rand(5, 4, dtype=torch.float64) * 3
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)
