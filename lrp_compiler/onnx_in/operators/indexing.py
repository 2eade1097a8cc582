"""Elements picked out and put in, by where they stand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import Known, chosen, onnx_op
from ..rounds import NotKnownError, Round
from ..sizes import Sizes
from ..whole_numbers import Rows, Whole

FAR = 1 << 31
"""Beyond any size: what stands for the end."""


STORED = (torch.uint8, torch.int8)
"""Dtypes of tables that stand for floats."""


@onnx_op("Gather")
def gather(x: Tensor, indices: Known, *, axis: int = 0) -> Tensor | Whole:
    """The slices at these places of an axis."""
    axis = axis % x.dim()
    if isinstance(indices, Sizes) and not indices.shape:
        place = indices.one()
        return _of_step(x, axis, place).squeeze(axis) if isinstance(place, Round) else x.select(axis, place)
    if isinstance(indices, Sizes):
        size = x.shape[axis]
        numbers = [value + size if isinstance(value, int) and value < 0 else value for value in indices.list()]
        flat = x.index_select(axis, Sizes.of(numbers).tensor())
        return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return F.embedding(indices, x)
    if axis == 0 and x.dim() == 2 and x.dtype in STORED:
        return Rows.of(x, indices)
    index: Any = (*[slice(None)] * axis, indices)
    return x[index]


def _of_step(x: Tensor, axis: int, first: Round, width: int = 1) -> Tensor:
    """So many elements of an axis from one on that a loop's step says."""
    places = first.tensor().reshape(1)
    if not (isinstance(first.first, int) and isinstance(first.slope, int) and first.first >= 0 and first.slope >= 0):
        places = _positive(places, x.shape[axis])
    return x.index_select(axis, places if width == 1 else places + torch.arange(width))


@onnx_op("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Each element at its own place along an axis."""
    return torch.gather(x, axis, _positive(indices, x.shape[axis]))


def _positive(indices: Tensor, size: Any) -> Tensor:
    return torch.where(indices < 0, indices + size, indices).to(torch.int64)


@onnx_op("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """The slices at these places of several axes."""
    batch = [
        torch.arange(x.shape[dim]).reshape([-1 if k == dim else 1 for k in range(indices.dim() - 1)])
        for dim in range(batch_dims)
    ]
    return x[(*batch, *indices.to(torch.int64).unbind(-1))]


REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@onnx_op("Scatter", "ScatterElements")
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """Each element put at its own place along an axis."""
    where = _positive(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, where, updates)
    if reduction == "add":
        return x.scatter_add(axis, where, updates)
    return x.scatter_reduce(
        axis, where, updates, chosen(REDUCTIONS, reduction, "The reduction of a scatter"), include_self=True
    )


@onnx_op("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Slices put at these places of several axes."""
    places = tuple(indices.to(torch.int64).unbind(-1))
    if reduction in ("none", "add"):
        return x.index_put(places, updates, accumulate=reduction == "add")
    depth = len(places)
    flat: Any = 0
    for size, place in zip(x.shape[:depth], places, strict=True):
        flat = flat * size + torch.where(place < 0, place + size, place)
    rest = x.shape[depth:]
    rows, given = x.reshape(-1, *rest), updates.reshape(-1, *rest)
    where = flat.reshape(-1, *[1] * len(rest)).expand_as(given)
    return rows.scatter_reduce(
        0, where, given, chosen(REDUCTIONS, reduction, "The reduction of a scatter"), include_self=True
    ).reshape(x.shape)


@onnx_op("TensorScatter")
def tensor_scatter(
    past: Tensor, update: Tensor, write_indices: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """A cache with new entries written behind those that it has, of each row at its own place."""
    axis = axis % past.dim()
    start = torch.zeros(past.shape[0], dtype=torch.int64) if write_indices is None else write_indices
    steps = torch.arange(update.shape[axis])
    places = start.reshape(-1, 1) + steps
    places = places % past.shape[axis] if mode == "circular" else places
    shape = [past.shape[0] if k == 0 else update.shape[axis] if k == axis else 1 for k in range(past.dim())]
    return past.scatter(axis, places.reshape(shape).expand(update.shape), update)


@onnx_op("OneHot")
def one_hot(indices: Tensor, depth: Sizes, values: Tensor, *, axis: int = -1) -> Tensor:
    """A new axis that is `values[1]` at each index, and `values[0]` elsewhere."""
    size = depth.one()
    size = int(size) if isinstance(size, float) else size
    places = torch.arange(size).to(torch.int64)
    whole = indices.to(torch.int64)
    axis = axis % (indices.dim() + 1)
    where = torch.where(whole < 0, whole + size, whole).unsqueeze(axis)
    shape = [1] * (indices.dim() + 1)
    shape[axis] = -1
    hot = where == places.reshape(shape)
    return torch.where(hot, values[1], values[0])


@onnx_op("TopK", since=10)
def top_k(x: Tensor, k: Sizes, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The largest (or smallest) along an axis, and where they are; the first of those that are equal."""
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = k.one()
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@onnx_op("TopK", since=1)
def top_k_attribute(x: Tensor, *, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The largest along an axis, how many saying an attribute (until opset 9)."""
    return top_k(x, Sizes.of(k), axis=axis)


@onnx_op("Compress")
def compress(x: Tensor, condition: Known, *, axis: int | None = None) -> Tensor:
    """The slices where the condition holds."""
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis % x.dim())
    if isinstance(condition, Sizes) and condition.is_known:
        kept = [place for place, value in enumerate(condition.list()) if value]
        return x.index_select(axis, torch.tensor(kept, dtype=torch.int64))
    where = condition.tensor() if isinstance(condition, Sizes) else condition
    return x.index_select(axis, where.nonzero().reshape(-1))


@onnx_op("NonZero")
def nonzero(x: Tensor) -> Tensor:
    """Where there is anything but 0: a row for each dim."""
    return x.nonzero().T


@onnx_op("Slice", since=1)
def slice_attributes(x: Tensor, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Tensor:
    """From here to there, along these axes (until opset 9)."""
    return _sliced(x, starts, ends, axes or list(range(len(starts))), [1] * len(starts))


@onnx_op("Slice", since=10)
def slice_inputs(
    x: Tensor, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None
) -> Tensor:
    """From here to there, by steps, along these axes."""
    dims = list(range(len(starts.list()))) if axes is None else axes.list()
    return _sliced(x, starts.list(), ends.list(), dims, [1] * len(dims) if steps is None else steps.list())


def _sliced(x: Tensor, starts: list[Any], ends: list[Any], axes: list[int], steps: list[int]) -> Tensor:
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis % x.dim()
        if isinstance(start, Round):
            x = _of_step(x, axis, start, _width(start, end, step))
        elif step > 0:
            last = None if isinstance(end, int) and end >= FAR else end
            index: tuple[slice, ...] = (*[slice(None)] * axis, slice(start, last, step))
            x = x[index]
        else:
            x = _backwards(x, start, end, axis, -step)
    return x


def _width(start: Round, end: Any, step: int) -> int:
    """How many elements lie between two numbers of a loop's step."""
    width = end - start
    if step != 1 or not isinstance(width, int):
        raise NotKnownError("A Loop of an open number of steps takes a Slice of another size in every step.")
    return width


def _backwards(x: Tensor, start: Any, end: Any, axis: int, step: int) -> Tensor:
    size = x.shape[axis]
    first = start + size if start < 0 else torch.sym_min(start, size - 1)
    low = 0 if end < -FAR else torch.sym_max((end + size if end < 0 else end) + 1, 0)
    index: tuple[slice, ...] = (*[slice(None)] * axis, slice(low, first + 1))
    turned = x[index].flip(axis)
    return turned if step == 1 else turned[(*[slice(None)] * axis, slice(None, None, step))]


@onnx_op("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first so many steps of each row in reverse."""
    rows = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(rows.shape[1])
    length = lengths.reshape(-1, 1)
    places = torch.where(steps < length, length - 1 - steps, steps)
    places = places.reshape(*places.shape, *[1] * (x.dim() - 2)).expand(rows.shape)
    return torch.gather(rows, 1, places).movedim((0, 1), (batch_axis, time_axis))


@onnx_op("Unique")
def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1, outputs: int = 1) -> Any:
    """Each value once; where it was first, which one stands where, and how often."""
    values, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    flat = inverse.reshape(-1)
    order = torch.arange(flat.shape[0])
    first = torch.full([counts.shape[0]], flat.shape[0]).scatter_reduce(0, flat, order, "amin")
    if not sorted:
        by_first = torch.argsort(first)
        rank = torch.argsort(by_first)
        values = values.index_select(0 if axis is None else axis, by_first)
        first, counts, flat = first[by_first], counts[by_first], rank[flat]
    return (values, first, flat, counts)[:outputs]
