"""Stretches of a tensor, handed out or overwritten: as torch's own ops, on any shape."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from support.drawn import Case, computes_the_same, dim_of, drawn, shape_of
from torch import Tensor

from lrp_compiler.passes.decompose.scatters import WRITTEN_OUT
from lrp_compiler.passes.decompose.slices import DECOMPOSITIONS, along, chunk

aten = torch.ops.aten


def long(draw: st.DrawFn) -> tuple[Tensor, int]:
    """A tensor, and a dim of it of up to nine elements."""
    shape = shape_of(draw, 1, 3)
    dim = dim_of(draw, len(shape))
    shape[dim] = draw(st.integers(1, 9))
    return drawn(draw, *shape), dim


def split(draw: st.DrawFn) -> Any:
    x, dim = long(draw)
    return (x, draw(st.integers(1, 10)), dim), {}


def split_with_sizes(draw: st.DrawFn) -> Any:
    x, dim = long(draw)
    cuts = sorted(draw(st.lists(st.integers(0, x.shape[dim]), max_size=3)))
    sizes = [end - start for start, end in zip([0, *cuts], [*cuts, x.shape[dim]], strict=True)]
    return (x, sizes, dim), {}


def unbind(draw: st.DrawFn) -> Any:
    return long(draw), {}


def copy(draw: st.DrawFn) -> Any:
    shape = shape_of(draw)
    kept = shape[draw(st.integers(0, len(shape))) :]
    source = drawn(draw, *(draw(st.sampled_from([1, size])) for size in kept), ties=True)
    return (drawn(draw, *shape), source.to(draw(st.sampled_from([torch.float32, torch.int64])))), {}


def type_as(draw: st.DrawFn) -> Any:
    other = torch.ones(1, dtype=draw(st.sampled_from([torch.float32, torch.float64, torch.int64])))
    return (drawn(draw, *shape_of(draw), ties=True), other), {}


def as_strided(draw: st.DrawFn) -> Any:
    """Any window into the memory of a tensor that fills it, transposed or not; places may repeat."""
    x = drawn(draw, *(draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3)))))
    x = x.permute(draw(st.permutations(range(x.dim()))))
    last, sizes, strides = x.numel() - 1, [], []
    for _ in range(draw(st.integers(0, 3))):
        strides.append(draw(st.integers(0, 4)))
        sizes.append(draw(st.integers(1, 3 if not strides[-1] else 1 + last // strides[-1])))
        last -= (sizes[-1] - 1) * strides[-1]
    return (x, sizes, strides, draw(st.one_of(st.none(), st.integers(0, last)))), {}


CASES: dict[Any, Case] = {
    aten.as_strided.default: as_strided,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.chunk.default: split,
    aten.unbind.int: unbind,
    aten.copy.default: copy,
    aten.type_as.default: type_as,
}
"""Op → random arguments of it; an op without any has no business in the table."""


@pytest.mark.parametrize("op", DECOMPOSITIONS, ids=str)
def test_it_computes_what_torch_does(op: Any) -> None:
    computes_the_same(op, DECOMPOSITIONS[op], CASES[op])


def bound(draw: st.DrawFn, size: int) -> int | None:
    """Where a slice begins or ends, as torch lets it be written: from either end, beyond it, or nowhere."""
    return draw(st.one_of(st.none(), st.integers(-size - 2, size + 2), st.just(2**63 - 1)))


def slice_scatter(draw: st.DrawFn) -> Any:
    x, dim = long(draw)
    start, end, step = bound(draw, x.shape[dim]), bound(draw, x.shape[dim]), draw(st.integers(1, 3))
    start = None if start == 2**63 - 1 else start
    taken = aten.slice.Tensor(x, dim, start, end, step)
    return (x, drawn(draw, *taken.shape), dim, start, end, step), {}


def select_scatter(draw: st.DrawFn) -> Any:
    x, dim = long(draw)
    index = draw(st.integers(-x.shape[dim], x.shape[dim] - 1))
    return (x, drawn(draw, *x.select(dim, index).shape), dim, index), {}


def diagonal_scatter(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw, 2, 4))
    dims = draw(st.lists(st.integers(0, x.dim() - 1), min_size=2, max_size=2, unique=True))
    offset = draw(st.integers(-2, 2))
    return (x, drawn(draw, *x.diagonal(offset, *dims).shape), offset, *dims), {}


WRITES: dict[Any, Case] = {
    aten.slice_scatter.default: slice_scatter,
    aten.select_scatter.default: select_scatter,
    aten.diagonal_scatter.default: diagonal_scatter,
}


@pytest.mark.parametrize("op", WRITTEN_OUT, ids=str)
def test_what_is_overwritten_is_what_torch_overwrites(op: Any) -> None:
    computes_the_same(op, WRITTEN_OUT[op], WRITES[op])


# ---- In a graph of any batch size ----

X = torch.arange(24.0, dtype=torch.float64).reshape(2, 4, 3)
WRITTEN: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "split": (lambda x: x.split(3, 1), ["slice", "slice"]),
    "split with sizes": (lambda x: x.split([1, 0, 3], -2), ["slice", "slice", "slice"]),
    "chunk": (lambda x: x.chunk(3, 1), ["slice", "slice"]),
    "unbind": (lambda x: x.unbind(2), ["select", "select", "select"]),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", WRITTEN)
def test_in_a_graph_pieces_are_slices(name: str, graph_of: Callable, targets: Callable) -> None:
    function, expected = WRITTEN[name]

    module = graph_of(function, X, dynamic=True)

    assert targets(module) == expected
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(module(x), function(x), rtol=0, atol=0)


def test_a_size_that_varies_is_cut_where_it_is_a_multiple(graph_of: Callable) -> None:
    module = graph_of(lambda x: torch.cat([x, x, x, x]), X, dynamic=True)
    (whole,) = module.graph.output_node().args[0]
    value = whole.meta["val"]
    environment = value.fake_mode.shape_env
    guards = len(environment.guards)

    pieces = chunk(value, 2)

    batch = module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
    assert [piece.shape for piece in pieces] == [(2 * batch, 4, 3)] * 2
    assert len(environment.guards) == guards


def test_a_vector_of_places_lies_along_a_dim() -> None:
    index = torch.tensor([2, 0])

    assert [along(index, dim, 3).shape for dim in (0, 1, 2, -1, -3)] == [
        (2, 1, 1),
        (1, 2, 1),
        (1, 1, 2),
        (1, 1, 2),
        (2, 1, 1),
    ]
