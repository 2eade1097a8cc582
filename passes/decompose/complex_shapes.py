"""Complex numbers, as pairs, made, moved about, chosen and added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.torch_private import OpOverload

from .complex_numbers import Pair, as_pair, pair, size

aten = torch.ops.aten


def same(value: Pair, *options: object, **more: object) -> Pair:
    """The same values."""
    return value


def reshaped(value: Pair, shape: Sequence[int | torch.SymInt]) -> Pair:
    """Another shape."""
    return Pair(value.parts.reshape([*shape, 2]))


def expanded(value: Pair, shape: Sequence[int | torch.SymInt], *, implicit: bool = False) -> Pair:
    """Repeated without copying."""
    return Pair(value.parts.expand([*shape, 2]))


def along(target: OpOverload, *places: int, grows: bool = False) -> Callable[..., Pair]:
    """An op that takes dims, run on both parts: the dims, at these places among its arguments, count from the front."""

    def paired(value: Any, *args: Any, **kwargs: Any) -> Pair:
        values = [value] if isinstance(value, Pair) else list(value)
        rank = values[0].rank + grows
        arguments = [
            [dim % rank for dim in arg]
            if index in places and isinstance(arg, (list, tuple))
            else arg % rank
            if index in places
            else arg
            for index, arg in enumerate(args)
        ]
        parts = values[0].parts if isinstance(value, Pair) else [item.parts for item in values]
        return Pair(target(parts, *arguments, **kwargs))

    return paired


def permuted(value: Pair, dims: Sequence[int]) -> Pair:
    """Dims in another order."""
    return Pair(value.parts.permute([*(dim % value.rank for dim in dims), value.rank]))


def concatenated(values: Sequence[Pair | Tensor | complex], dim: int = 0) -> Pair:
    """Pairs and real tensors, one after the other."""
    like = next(value for value in values if isinstance(value, Pair))
    return Pair(torch.cat([as_pair(value, like).parts for value in values], dim % like.rank))


def filled(
    shape: Sequence[int | torch.SymInt],
    value: complex,
    *,
    dtype: torch.dtype,
    device: torch.device | None = None,
    **options: object,
) -> Pair:
    """One number everywhere."""
    number, real = complex(value), torch.empty((), dtype=dtype).real.dtype
    parts = (torch.full(shape, part, dtype=real, device=device) for part in (number.real, number.imag))
    return pair(*parts)


def zeros(
    shape: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device | None = None, **options: object
) -> Pair:
    """0 everywhere."""
    return filled(shape, 0, dtype=dtype, device=device)


def zeros_like(value: Any, *, dtype: torch.dtype | None = None, **options: object) -> Pair | Tensor:
    """0 everywhere, as many as the tensor has elements."""
    if dtype is None or dtype.is_complex:
        like = value.parts if isinstance(value, Pair) else value
        real = like.dtype if dtype is None else torch.empty((), dtype=dtype).real.dtype
        return Pair(
            torch.zeros([*like.shape[: like.dim() - isinstance(value, Pair)], 2], dtype=real, device=like.device)
        )
    return torch.zeros(value.parts.shape[:-1], dtype=dtype, device=value.parts.device)


def chosen(condition: Tensor, left: Any, right: Any) -> Pair:
    """One of two by a mask."""
    like = left if isinstance(left, Pair) else right
    left, right = as_pair(left, like), as_pair(right, like)
    return Pair(torch.where(condition.unsqueeze(-1), left.parts, right.parts))


def masked(value: Pair, mask: Tensor, filling: complex) -> Pair:
    """One number where a mask is set."""
    return chosen(mask, filling if isinstance(filling, Pair) else as_pair(filling, value), value)


def padded(value: Pair, pad: Sequence[Any], filling: complex = 0.0) -> Pair:
    """A border of one number."""
    number = complex(filling)
    real, imaginary = (
        torch.nn.functional.pad(part, list(pad), "constant", border)
        for part, border in zip(value, (number.real, number.imag), strict=True)
    )
    return pair(real, imaginary)


def scattered(value: Pair, dim: int, index: Tensor, source: Pair | Tensor | complex) -> Pair:
    """Elements overwritten."""
    places = index.unsqueeze(-1).expand(*index.shape, 2)
    source = as_pair(source, value).parts.expand(places.shape)
    return Pair(value.parts.scatter(dim % value.rank, places, source))


def scattered_and_added(value: Pair, dim: int, index: Tensor, source: Pair) -> Pair:
    """Elements added to."""
    places = index.unsqueeze(-1).expand(*index.shape, 2)
    return Pair(value.parts.scatter_add(dim % value.rank, places, source.parts))


def gathered(value: Pair, dim: int, index: Tensor, **options: object) -> Pair:
    """Elements picked along a dim."""
    places = index.unsqueeze(-1).expand(*index.shape, 2)
    return Pair(value.parts.gather(dim % value.rank, places))


def reduced(target: Callable[..., Tensor]) -> Callable[..., Pair]:
    """A sum or a mean over dims, over all where none is named."""

    def paired(value: Pair, dims: Sequence[int] | None = None, keepdim: bool = False, **options: object) -> Pair:
        over = [dim % value.rank for dim in dims] if dims else list(range(value.rank))
        return Pair(target(value.parts, over, keepdim)) if over else value

    return paired


def norm(value: Pair, *args: object, **kwargs: object) -> Tensor:
    """Of the sizes."""
    length: Tensor = aten.linalg_vector_norm.default(size(value), *args, **kwargs)
    return length


def repeated(value: Pair, repeats: Sequence[int | torch.SymInt]) -> Pair:
    """Copied side by side."""
    return Pair(value.parts.repeat([*repeats, 1]))


def diagonal(value: Pair, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Pair:
    """A diagonal."""
    real, imaginary = (part.diagonal(offset, dim1, dim2) for part in value)
    return pair(real, imaginary)


def triangle(target: Callable[..., Tensor]) -> Callable[..., Pair]:
    """One half of a matrix."""

    def paired(value: Pair, diagonal: int = 0) -> Pair:
        real, imaginary = (target(part, diagonal) for part in value)
        return pair(real, imaginary)

    return paired


SHAPES: dict[object, Callable[..., Pair | Tensor]] = {
    aten.resolve_conj.default: same,
    aten.clone.default: same,
    aten.alias.default: same,
    aten.detach.default: same,
    aten.contiguous.default: same,
    aten.lift_fresh_copy.default: same,
    aten.view.default: reshaped,
    aten._unsafe_view.default: reshaped,
    aten.reshape.default: reshaped,
    aten.expand.default: expanded,
    aten.permute.default: permuted,
    aten.transpose.int: along(aten.transpose.int, 0, 1),
    aten.unsqueeze.default: along(aten.unsqueeze.default, 0, grows=True),
    aten.squeeze.dim: along(aten.squeeze.dim, 0),
    aten.select.int: along(aten.select.int, 0),
    aten.slice.Tensor: along(aten.slice.Tensor, 0),
    aten.index_select.default: along(aten.index_select.default, 0),
    aten.index.Tensor: along(aten.index.Tensor),
    aten.cat.default: concatenated,
    aten.flip.default: along(aten.flip.default, 0),
    aten.roll.default: along(aten.roll.default, 1),
    aten.sum.default: reduced(torch.sum),
    aten.sum.dim_IntList: reduced(torch.sum),
    aten.mean.default: reduced(torch.mean),
    aten.mean.dim: reduced(torch.mean),
    aten.zeros.default: zeros,
    aten.zeros_like.default: zeros_like,
    aten.full.default: filled,
    aten.scalar_tensor.default: lambda value, **options: filled((), value, **options),
    aten.where.self: chosen,
    aten.masked_fill.Scalar: masked,
    aten.masked_fill.Tensor: masked,
    aten.constant_pad_nd.default: padded,
    aten.scatter.src: scattered,
    aten.scatter.value: scattered,
    aten.scatter_add.default: scattered_and_added,
    aten.gather.default: gathered,
    aten.cumsum.default: along(aten.cumsum.default, 0),
    aten.squeeze.dims: along(aten.squeeze.dims, 0),
    aten.repeat.default: repeated,
    aten.diagonal.default: diagonal,
    aten.tril.default: triangle(torch.tril),
    aten.triu.default: triangle(torch.triu),
    aten.linalg_vector_norm.default: norm,
}
"""Ops that arrange complex tensors → what they do on pairs."""
