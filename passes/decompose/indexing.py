"""Indexed writes, as the few that have a rule: `where`, `scatter`, `scatter_add` and `index_put`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .slices import along

aten = torch.ops.aten


def index_put(tensor: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """Under a mask, one value for every place is a `where`; vectors of indices along one dim are a `scatter`."""
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
    index = torch.where(index < 0, index + tensor.shape[dim], index)
    return (index_add if accumulate else index_copy)(tensor, dim, index, values)


def unchecked_index_put(
    tensor: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    """The same without a check of the indices."""
    written: Tensor = aten.index_put.default(tensor, indices, values, accumulate)
    return written


def index_add(tensor: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """`tensor[index] += alpha · source` along `dim`."""
    source = source if alpha == 1 else source * alpha
    if tensor.dim() == 0:
        return tensor + source.reshape(())
    return tensor.scatter_add(dim, along(index, dim, tensor.dim()).expand(source.shape), source)


def index_copy(tensor: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`tensor[index] = source` along `dim`."""
    return tensor.scatter(dim, along(index, dim, tensor.dim()).expand(source.shape), source)


def index_fill(tensor: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`tensor[index] = value` along `dim`."""
    places = torch.arange(tensor.shape[dim], device=tensor.device).unsqueeze(-1) == index
    mask = along(places.any(-1), dim, tensor.dim())
    value = value if isinstance(value, Tensor) else torch.full((), value, dtype=tensor.dtype, device=tensor.device)
    return torch.where(mask, value, tensor)


def masked_scatter(tensor: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The masked places, in order, take the source's elements, in order."""
    mask = mask.expand(tensor.shape)
    order = mask.flatten().to(torch.int64).cumsum(0) - 1
    taken = source.flatten().index_select(0, order.clamp(0, source.numel() - 1)).reshape(tensor.shape)
    return torch.where(mask, taken, tensor)


def scatter_reduce(
    tensor: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """Sums and means of what is sent to each place."""
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
    """Rows looked up and summed (mode 0) or averaged (mode 1) in bags; a padding index below 0 stands for none."""
    if mode not in (0, 1):
        return NotImplemented
    starts = offsets[:-1] if include_last_offset else offsets
    bag = (torch.arange(indices.shape[0], device=indices.device).unsqueeze(-1) >= starts).sum(-1) - 1
    rows = torch.nn.functional.embedding(indices, weight)
    counted = torch.ones_like(indices, dtype=weight.dtype)
    if padding_idx is not None and padding_idx >= 0:
        counted = (indices != padding_idx).to(weight.dtype)
        rows = rows * counted.unsqueeze(-1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    empty = torch.zeros((starts.shape[0], weight.shape[1]), dtype=weight.dtype, device=weight.device)
    pooled = index_add(empty, 0, bag, rows)
    count = index_add(empty[:, 0], 0, bag, counted)
    if mode == 1:
        pooled = pooled / count.clamp(min=1).unsqueeze(-1)
    return pooled, bag, count.to(torch.int64), torch.zeros_like(starts)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: unchecked_index_put,
    aten.index_add.default: index_add,
    aten.index_copy.default: index_copy,
    aten.index_fill.int_Scalar: index_fill,
    aten.index_fill.int_Tensor: index_fill,
    aten.masked_scatter.default: masked_scatter,
    aten.scatter_reduce.two: scatter_reduce,
    aten._embedding_bag.default: embedding_bag,
    aten.embedding_bag.padding_idx: embedding_bag,
}
