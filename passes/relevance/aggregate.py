"""Relevance of several values as one map over the places of an input: `[batch, channels, 13, 13]` and others, summed
over their channels, brought to the input's size and added up.

It is a score: relevance that passes several of the values counts once at each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.assign import named_values
from lrp_compiler.torch_private import hint, statically_known_true

from .walk import wide


def maps_of(
    forward: fx.GraphModule, patterns: Sequence[str], explained: Mapping[str, fx.Node], reached: Collection[fx.Node]
) -> dict[str, list[fx.Node]]:
    """Input → the input, and the values that these patterns name, each once: what one map is the sum of.

    Args:
        forward: the forward graph, with its active nodes annotated.
        patterns: of values, as those of `observe`; none: there is no map.
        explained: the inputs whose relevance is returned, by name.
        reached: the nodes that relevance reaches.

    Raises:
        InputError: a pattern that names nothing, or only what takes no relevance; values whose places are not those of
            the input; relevance of several inputs, or of none.
    """
    if not patterns:
        return {}
    if len(explained) != 1:
        names = ", ".join(map(repr, explained))
        several = f"that of {names} is returned: name one by wrt" if names else "none is returned"
        raise InputError(f"aggregate sums over the places of one input, and of relevance of inputs {several}.")
    ((name, own),) = explained.items()
    found = {node: name for one in patterns for name, node in named_values(forward, one, reached, "aggregate").items()}
    wrong = {value: misfit(own.meta["val"], node.meta["val"]) for node, value in found.items()}
    named = [f"{value!r} {why}" for value, why in wrong.items() if why]
    if named:
        raise InputError(
            f"aggregate cannot bring these values to the places of input {name!r}: {'; '.join(named)}: leave them out."
        )
    return {name: [own, *found]}


def misfit(own: Tensor, value: Tensor) -> str:
    """Why the places of a value are not those of the input; "": they are."""
    dims, others = own.dim() - 1, value.dim() - 1
    if dims < 1 or others < 0 or not _same(own.shape[0], value.shape[0]):
        return "has another batch than the input"
    if dims < 3:
        alike = others in (1, 2) and _same(own.shape[1], value.shape[1])
        return "" if alike else "has not the input's length behind the batch, with or without features behind it"
    if others != dims:
        return f"has {others + 1} dims with its batch, and the input has {dims + 1}"
    if any(map(_finer, value.shape[2:], own.shape[2:])):
        return "is of more places than the input"
    return ""


def _same(size: int | torch.SymInt, other: int | torch.SymInt) -> bool:
    return statically_known_true(size == other)


def _finer(size: int | torch.SymInt, than: int | torch.SymInt) -> bool:
    """Whether there are more, of open sizes in the example."""
    return hint(size) > hint(than)


def aggregate(lead: int, own: Tensor, *values: Tensor) -> Tensor:
    """The map.

    Args:
        lead: how many dims stand in front of `[channels, *sizes]` or `[length, …]`.
        own: relevance of the input, `[…, batch, channels, *sizes]` with two sizes or more, `[…, batch, length]` or
            `[…, batch, length, features]`.
        values: relevances of values that fit it (`misfit`).

    Returns:
        `[…, batch, *sizes]` or `[…, batch, length]`, summed in float32 where relevance is half precision.
    """
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
