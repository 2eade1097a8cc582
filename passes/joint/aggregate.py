"""Relevance of several values as one map over the places of an input: `[batch, channels, 13, 13]` and others, summed
over their channels, brought to the input's size and added up.

It is a score: relevance that passes several of the values counts once at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import trace_into
from lrp_compiler.torch_private import hint, statically_known_true

from .reduce import wide


def aggregate(own: fx.Node, values: Sequence[fx.Node], place: fx.Node, lead: int) -> fx.Node:
    """Put the map in front of a place of the graph of its relevances.

    Args:
        own: relevance of the input, `[…, batch, channels, *sizes]` with two sizes or more, `[…, batch, length]` or
            `[…, batch, length, features]`.
        values: relevances of values that fit it (`misfit`).
        place: in front of which.
        lead: how many dims stand in front of `[channels, *sizes]` or `[length, …]`.

    Returns:
        `[…, batch, *sizes]` or `[…, batch, length]`, summed in float32 where relevance is half precision.
    """
    return trace_into(place, _total, [lead, own, *values], like=own)


def misfit(own: Tensor, value: Tensor, lead: int) -> str:
    """Why the places of a value's relevance are not those of the input's; "": they are."""
    dims, others = own.dim() - lead, value.dim() - lead
    if dims < 1 or not all(map(_same, own.shape[:lead], value.shape[:lead])):
        return "has another batch than the input"
    if dims < 3:
        alike = others in (1, 2) and _same(own.shape[lead], value.shape[lead])
        return "" if alike else "has not the input's length behind the batch, with or without features behind it"
    if others != dims:
        return f"has {others + 1} dims with its batch, and the input has {dims + 1}"
    if any(map(_finer, value.shape[lead + 1 :], own.shape[lead + 1 :])):
        return "is of more places than the input"
    return ""


def _same(size: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    return statically_known_true(size == other)


def _finer(size: int | torch.SymInt, than: int | torch.SymInt) -> bool:
    """Whether there are more, of open sizes in the example."""
    return hint(size) > hint(than)


def _total(lead: int, own: Tensor, *values: Tensor) -> Tensor:
    total = _places(own, lead, own.dim() - lead)
    sizes = total.shape[lead:]
    for value in values:
        places = _places(value, lead, own.dim() - lead)
        for dim, size in enumerate(sizes, lead):
            places = places if _same(places.shape[dim], size) else _resized(places, dim, size)
        total = total + places
    return total


def _places(R: Tensor, lead: int, dims: int) -> Tensor:
    """Of an image the channels summed, which come first; of a sequence the features, which come last."""
    if dims >= 3:
        return wide(R).sum(lead)
    return wide(R).sum(-1) if R.dim() - lead == 2 else wide(R)


def _resized(R: Tensor, dim: int, size: Any) -> Tensor:
    """Linear interpolation between the middles of the elements of one dim, times the ratio of the sizes.

    Every result is a mean of the two elements whose middles are nearest; in one dim after the other that is
    `functional.interpolate(mode="bilinear")`. Here the means are a matrix, which can be of any size.
    """
    count = R.shape[dim]
    middles = (torch.arange(size, device=R.device).to(R.dtype) + 0.5) * (count / size) - 0.5
    middles = middles.clamp(min=0, max=count - 1)
    elements = torch.arange(count, device=R.device).to(R.dtype)
    shares = (1 - (middles[:, None] - elements).abs()).clamp(min=0) * (count / size)
    return torch.matmul(R.movedim(dim, -1), shares.transpose(0, 1)).movedim(-1, dim)
