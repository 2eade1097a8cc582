"""Shapes of tensors, and tensors in other shapes."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op
from ..sizes import Sizes
from ..tensors import as_dtype, dtype_of
from ..whole_numbers import Whole, added


@onnx_op("Shape", fold=False)
def shape(x: Any, *, start: int = 0, end: int | None = None) -> Sizes:
    """The sizes of a tensor, or those from `start` to `end`."""
    return Sizes.of(tuple(x.shape)[start:end])


@onnx_op("Size", fold=False)
def size(x: Any) -> Sizes:
    """How many elements a tensor has."""
    return Sizes.of(prod(x.shape))


@onnx_op("Reshape")
def reshape(x: Tensor, shape: Sizes, *, allowzero: int = 0) -> Tensor:
    """In another shape: 0 stands for the size at its place, unless `allowzero`, and −1 for what is left."""
    wanted = [
        x.shape[place] if isinstance(size, int) and size == 0 and not allowzero else size
        for place, size in enumerate(shape.list())
    ]
    return x.reshape(wanted)


@onnx_op("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """As a matrix: dims before `axis`, and those from it on."""
    axis = axis if axis >= 0 else axis + x.dim()
    if axis == 1 and x.dim() > 1:
        return torch.flatten(x, 1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@onnx_op("Squeeze")
def squeeze(x: Tensor, axes_input: Sizes | None = None, *, axes: list[int] | None = None) -> Tensor:
    """Without these dims of size 1, or without any."""
    given = axes if axes_input is None else axes_input.list()
    if given is None:
        given = [place for place, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    for dim in sorted((one % x.dim() for one in given), reverse=True):
        x = x.squeeze(dim)
    return x


@onnx_op("Unsqueeze")
def unsqueeze(x: Tensor, axes_input: Sizes | None = None, *, axes: list[int] | None = None) -> Tensor:
    """With dims of size 1 at these places of the result."""
    given = (axes or []) if axes_input is None else axes_input.list()
    rank = x.dim() + len(given)
    for dim in sorted(one % rank for one in given):
        x = x.unsqueeze(dim)
    return x


@onnx_op("Transpose")
def transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    """With its dims in another order; by default the reverse."""
    return x.permute(perm if perm is not None else list(reversed(range(x.dim()))))


@onnx_op("Expand")
def expand(x: Tensor, shape: Sizes) -> Tensor:
    """Repeated along dims of size 1, so that it broadcasts with this shape."""
    wanted = shape.list()
    own = [1] * (len(wanted) - x.dim()) + list(x.shape)
    wanted = [1] * (len(own) - len(wanted)) + wanted
    # A size that is open is not 1, so that it is the result's.
    sizes = [target if isinstance(mine, int) and mine == 1 else mine for mine, target in zip(own, wanted, strict=True)]
    return x.reshape(own).expand(sizes) if x.dim() < len(own) else x.expand(sizes)


@onnx_op("Tile")
def tile(x: Tensor, repeats: Sizes) -> Tensor:
    """Repeated along each dim so many times."""
    return x.repeat(*repeats.list()) if x.dim() else x.clone()


@onnx_op("Concat")
def concat(*values: Tensor, axis: int) -> Tensor:
    """One behind the other along an axis."""
    return torch.cat(values, axis)


@onnx_op("Split")
def split(
    x: Tensor,
    sizes: Sizes | None = None,
    *,
    axis: int = 0,
    split: list[int] | None = None,
    num_outputs: int | None = None,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    """In pieces along an axis: of these sizes, or as many as there are results, the last one smaller perhaps."""
    given = split if sizes is None else sizes.list()
    if given is None:
        count = num_outputs or outputs
        length = x.shape[axis]
        piece = (length + count - 1) // count
        given = [piece] * (count - 1) + [length - piece * (count - 1)]
    starts = [sum(given[:place]) for place in range(len(given))]
    return tuple(x.narrow(axis, start, length) for start, length in zip(starts, given, strict=True))


@onnx_op("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels moved into blocks of space; `DCR`: depth changes slowest, `CRD`: channels do."""
    batch, channels, height, width = x.shape
    inner = channels // blocksize**2
    if mode == "CRD":
        return torch.pixel_shuffle(x, blocksize)
    blocks = x.reshape(batch, blocksize, blocksize, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, inner, height * blocksize, width * blocksize)


@onnx_op("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Blocks of space moved into channels; `DCR`: depth changes slowest, `CRD`: channels do."""
    batch, channels, height, width = x.shape
    high, wide = height // blocksize, width // blocksize
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    blocks = x.reshape(batch, channels, high, blocksize, wide, blocksize).permute(order)
    return blocks.reshape(batch, channels * blocksize**2, high, wide)


@onnx_op("Trilu")
def triangle(x: Tensor, k: Sizes | None = None, *, upper: int = 1) -> Tensor:
    """What stands on one side of a diagonal."""
    diagonal = 0 if k is None else k.one()
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@onnx_op("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Ones on a diagonal, in the shape of a matrix."""
    kind = x.dtype if dtype is None else dtype_of(dtype, "EyeLike")
    rows, columns = torch.arange(x.shape[0]).unsqueeze(1), torch.arange(x.shape[1])
    return (columns == rows + k).to(kind)


@onnx_op("Range")
def number_range(start: Sizes, limit: Sizes, delta: Sizes) -> Any:
    """Numbers from one to another; of a few whole ones that are known, sizes."""
    first, last, step = start.one(), limit.one(), delta.one()
    if all(isinstance(value, int) for value in (first, last, step)) and start.dtype == torch.int64:
        numbers = range(first, last, step)
        if len(numbers) <= FEW:
            return Sizes.of(numbers)
    return torch.arange(first, last, step, dtype=start.dtype)


FEW = 64
"""Numbers that are kept as such."""


@onnx_op("ConstantOfShape")
def constant_of_shape(shape: Sizes, *, value: Sizes | None = None) -> Any:
    """One number all over; of whole ones in a known shape, sizes."""
    filling = Sizes.of(0.0, torch.float32) if value is None else value
    sizes = shape.list()
    number = filling.list()[0]
    if len(sizes) < 2 and filling.dtype == torch.int64 and shape.is_known and prod(sizes) <= FEW:
        flat = Sizes.of([number] * prod(sizes))
        return flat if sizes else flat.with_array(flat.array.reshape(()))
    return torch.full(sizes, number, dtype=filling.dtype)


@onnx_op("Cast")
def cast(x: Any, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """In another dtype."""
    dtype = dtype_of(to, "A Cast")
    if isinstance(x, Whole) and dtype.is_floating_point:
        return added(x.values, x.zero).to(dtype)
    whole: Tensor = x if isinstance(x, Tensor) else x.tensor()
    return as_dtype(whole, dtype, saturate)


@onnx_op("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """In the dtype of another tensor."""
    return as_dtype(x, like.dtype, saturate)


@onnx_op("Identity")
def identity(x: Any) -> Any:
    """As it is."""
    return x
