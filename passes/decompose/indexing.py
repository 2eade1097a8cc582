"""Indexed reads and writes, as the few that have a rule: `where`, `gather`, `scatter`, `scatter_add`, `index_put`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.torch_private import OpOverload, statically_known_true

from .slices import along

aten = torch.ops.aten


INDICES = {torch.uint8: torch.bool, torch.int32: torch.int64}
"""Older masks, and places, in the dtypes that ONNX has for them."""


def _plain(indices: Sequence[Tensor | None]) -> list[Tensor | None] | None:
    """The same indices in plain dtypes; `None` if they are in those already."""
    if all(index is None or index.dtype not in INDICES for index in indices):
        return None
    return [index if index is None else index.to(INDICES.get(index.dtype, index.dtype)) for index in indices]


def index(tensor: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """By plain masks and places."""
    plain = _plain(indices)
    return NotImplemented if plain is None else aten.index.Tensor(tensor, plain)


def index_put(tensor: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """Under a mask, one value for every place is a `where`; vectors of indices along one dim are a `scatter`."""
    if (plain := _plain(indices)) is not None:
        return aten.index_put.default(tensor, plain, values, accumulate)
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    (dim, index) = given[0]
    if index.dtype == torch.bool:
        inner = tensor.dim() - dim - index.dim()
        if len(given) > 1 or accumulate or values.dim() > inner:
            return NotImplemented
        mask = index.reshape(*index.shape, *[1] * inner)
        return torch.where(mask, values.to(tensor.dtype), tensor)
    if len(given) > 1 or index.dim() != 1:
        return NotImplemented
    values = values.expand(*tensor.shape[:dim], index.shape[0], *tensor.shape[dim + 1 :])
    return (index_add if accumulate else index_copy)(tensor, dim, _from_the_start(index, tensor.shape[dim]), values)


def _from_the_start(index: Tensor, size: Any) -> Tensor:
    """Places some of which may be counted from the end."""
    return torch.where(index < 0, index + size, index)


def unchecked_index_put(
    tensor: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    """The same without a check of the indices."""
    written: Tensor = aten.index_put.default(tensor, indices, values, accumulate)
    return written


def index_add(tensor: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """`tensor[index] += alpha · source` along `dim`."""
    source = source if alpha == 1 else source * alpha
    return tensor.scatter_add(dim, _along_all(index, dim, source), source)


def index_copy(tensor: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`tensor[index] = source` along `dim`."""
    return tensor.scatter(dim, _along_all(index, dim, source), source)


def _along_all(index: Tensor, dim: int, source: Tensor) -> Tensor:
    """A vector of places along `dim`, for every element of the source."""
    return along(index.to(torch.int64), dim, source.dim()).expand(source.shape)


def index_fill(tensor: Tensor, dim: int, index: Tensor, value: Tensor | float) -> Tensor:
    """`tensor[index] = value` along `dim`."""
    size = tensor.shape[dim]
    places = torch.arange(size, device=tensor.device).unsqueeze(-1) == _from_the_start(index, size)
    mask = along(places.any(-1), dim, tensor.dim())
    value = value if isinstance(value, Tensor) else torch.full((), value, dtype=tensor.dtype, device=tensor.device)
    return torch.where(mask, value, tensor)


def masked_scatter(tensor: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The masked places, in order, take the source's elements, in order."""
    tensor, mask = torch.broadcast_tensors(tensor, mask)
    if statically_known_true(source.numel() == 0):  # and then there is no masked place
        return tensor
    order = mask.flatten().to(torch.int64).cumsum(0) - 1
    taken = source.flatten().index_select(0, order.clamp(0, source.numel() - 1)).reshape(tensor.shape)
    return torch.where(mask, taken, tensor)


def scatter_reduce(
    tensor: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """Sums and means of what is sent to each place; an extreme of that alone begins at ∓∞."""
    if reduce in EXTREMES and not include_self and tensor.is_floating_point():
        begun = tensor.scatter(dim, index, EXTREMES[reduce])
        return aten.scatter_reduce.two(begun, dim, index, source, reduce)
    if reduce not in ("sum", "mean"):
        return NotImplemented
    base = tensor if include_self else tensor.scatter(dim, index, 0.0)
    total = base.scatter_add(dim, index, source)
    if reduce == "sum":
        return total
    ones = torch.full_like(tensor, 1.0)
    counts = ones if include_self else ones.scatter(dim, index, 0.0)
    counts = counts.scatter_add(dim, index, torch.full_like(source, 1.0))
    return total / counts


EXTREMES = {"amax": -math.inf, "amin": math.inf}
"""Reduction → what nothing is further from than."""
REDUCTIONS = {"add": "sum", "multiply": "prod"}
"""What `scatter` calls them → what `scatter_reduce` does."""


def scatter_by_name(tensor: Tensor, dim: int, index: Tensor, source: Tensor | float, *, reduce: str) -> Tensor:
    """A scatter that adds or multiplies, under its older name; the source may be one number."""
    if not isinstance(source, Tensor):
        source = torch.full(index.shape, source, dtype=tensor.dtype, device=tensor.device)
    return tensor.scatter_reduce(dim, index, source, REDUCTIONS[reduce])


def index_reduce(
    tensor: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Slices reduced into those that a vector of places names."""
    return tensor.scatter_reduce(dim, _along_all(index, dim, source), source, reduce, include_self=include_self)


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Rows looked up and summed (mode 0), averaged (1), or the largest of them (2), in bags; an empty bag is all zeros.

    A padding index below 0 stands for none.
    """
    starts = offsets[:-1] if include_last_offset else offsets
    bag = (torch.arange(indices.shape[0], device=indices.device).unsqueeze(-1) >= starts).sum(-1) - 1
    rows = torch.nn.functional.embedding(indices, weight)
    counted = torch.ones_like(indices, dtype=weight.dtype)
    if padding_idx is not None and padding_idx >= 0:
        counted = (indices != padding_idx).to(weight.dtype)
        rows = rows.masked_fill((indices == padding_idx).unsqueeze(-1), -math.inf if mode == LARGEST else 0.0)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    empty = torch.zeros((starts.shape[0], weight.shape[1]), dtype=weight.dtype, device=weight.device)
    count = index_add(empty[:, 0], 0, bag, counted)
    if mode == LARGEST:
        places = bag.unsqueeze(-1).expand(rows.shape)
        pooled = (empty - math.inf).scatter_reduce(0, places, rows, "amax")
        pooled = pooled.masked_fill((count == 0).unsqueeze(-1), 0.0)
    else:
        pooled = index_add(empty, 0, bag, rows)
    if mode == AVERAGE:
        pooled = pooled / count.clamp(min=1).unsqueeze(-1)
    return pooled, bag, count.to(torch.int64), torch.zeros_like(starts)


AVERAGE, LARGEST = 1, 2
"""Modes of a bag."""


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten.index.Tensor: index,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: unchecked_index_put,
    aten.index_add.default: index_add,
    aten.index_copy.default: index_copy,
    aten.index_fill.int_Scalar: index_fill,
    aten.index_fill.int_Tensor: index_fill,
    aten.masked_scatter.default: masked_scatter,
    aten.scatter_reduce.two: scatter_reduce,
    aten.scatter.reduce: scatter_by_name,
    aten.scatter.value_reduce: scatter_by_name,
    aten.index_reduce.default: index_reduce,
    aten._embedding_bag.default: embedding_bag,
    aten.embedding_bag.padding_idx: embedding_bag,
}
