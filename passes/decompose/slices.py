"""Ops that hand out, or overwrite, stretches of a tensor: slices and concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.torch_private import OpOverload, statically_known_true

aten = torch.ops.aten

END = 1 << 62
"""From here on, a slice's end means: to the end."""


def split(tensor: Tensor, split_size: int, dim: int = 0) -> list[Tensor]:
    """Slices of `split_size`, the last one perhaps shorter."""
    size = int(tensor.shape[dim])
    return [
        aten.slice.Tensor(tensor, dim, start, min(start + split_size, size)) for start in range(0, size, split_size)
    ]


def split_with_sizes(tensor: Tensor, split_sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Slices of the given sizes."""
    pieces, start = [], 0
    for size in split_sizes:
        pieces.append(aten.slice.Tensor(tensor, dim, start, start + size))
        start = start + size
    return pieces


def chunk(tensor: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    """`chunks` slices of equal size, the last one perhaps shorter; a size that varies must be a multiple of them."""
    size = tensor.shape[dim]
    if not isinstance(size, int) and statically_known_true(size % chunks == 0):
        return [aten.slice.Tensor(tensor, dim, k * (size // chunks), (k + 1) * (size // chunks)) for k in range(chunks)]
    return split(tensor, -(-int(size) // chunks), dim)


def unbind(tensor: Tensor, dim: int = 0) -> list[Tensor]:
    """One slice for each position."""
    return [tensor.select(dim, index) for index in range(int(tensor.shape[dim]))]


def copy(tensor: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """The source, cast and broadcast to the tensor that it overwrites."""
    return source.to(tensor.dtype).expand(tensor.shape)


def slice_scatter(
    tensor: Tensor,
    source: Tensor,
    dim: int = 0,
    start: int | torch.SymInt | None = None,
    end: int | torch.SymInt | None = None,
    step: int = 1,
) -> Tensor:
    """A stretch overwritten: what lies before it, the source, what lies behind it."""
    dim %= tensor.dim()
    source = source.expand(*tensor.shape[:dim], source.shape[dim], *tensor.shape[dim + 1 :])
    size = tensor.shape[dim]
    first = _position(start, size, 0)
    last = _position(end, size, size)
    last = last if statically_known_true(first <= last) else torch.sym_max(last, first)
    if step != 1:
        positions = torch.arange(first, last, step, device=tensor.device)
        return tensor.scatter(dim, along(positions, dim, tensor.dim()).expand(source.shape), source)
    pieces = [
        *([] if statically_known_true(first == 0) else [aten.slice.Tensor(tensor, dim, 0, first)]),
        source,
        *([] if statically_known_true(last == size) else [aten.slice.Tensor(tensor, dim, last, size)]),
    ]
    return torch.cat(pieces, dim) if len(pieces) > 1 else source


def _position(index: Any, size: Any, default: Any) -> Any:
    """A slice's bound as torch reads it: negative ones count from the end, the rest is cut off at the ends."""
    if index is None or (isinstance(index, int) and index >= END):
        return default
    if statically_known_true(index < 0):
        return torch.sym_max(index + size, 0)
    return index if statically_known_true(index <= size) else torch.sym_min(index, size)


def select_scatter(tensor: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    """One position overwritten."""
    index = index + tensor.shape[dim] if statically_known_true(index < 0) else index
    return slice_scatter(tensor, source.unsqueeze(dim % tensor.dim()), dim, index, index + 1)


def diagonal_scatter(tensor: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A diagonal overwritten: the diagonal of the tensor's positions says where."""
    positions = torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape)
    places = positions.diagonal(offset, dim1, dim2).flatten()
    return tensor.flatten().scatter(0, places, source.flatten()).reshape(tensor.shape)


def along(index: Tensor, dim: int, rank: int) -> Tensor:
    """A vector of indices as a tensor of that rank, along `dim`."""
    if rank == 0:
        return index.reshape([])
    dim %= rank
    return index.reshape([1] * dim + [-1] + [1] * (rank - 1 - dim))


def as_strided(tensor: Tensor, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None) -> Any:
    """Elements picked by their places in memory; of a tensor that fills its memory, in whatever order of dims."""
    steps = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: (-steps[dim], dim))
    inner = tensor.permute(order)
    if tensor.storage_offset() != 0 or not inner.is_contiguous():
        return NotImplemented
    places: Any = torch.full((), 0 if storage_offset is None else storage_offset, dtype=torch.int64)
    for dim, (count, step) in enumerate(zip(size, stride, strict=True)):
        places = places + along(torch.arange(count, device=tensor.device) * step, dim, len(size))
    places = places.expand(list(size))
    return inner.flatten().index_select(0, places.flatten()).reshape(list(size))


def type_as(tensor: Tensor, other: Tensor) -> Tensor:
    """A cast: the other tensor lends its dtype only."""
    return tensor.to(other.dtype)


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.chunk.default: chunk,
    aten.unbind.int: unbind,
    aten.as_strided.default: as_strided,
    aten.copy.default: copy,
    aten.type_as.default: type_as,
}
