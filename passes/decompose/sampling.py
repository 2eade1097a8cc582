"""Volumes sampled at points of a grid: the corners around each point, looked up and weighted.

    grid_sample(x, grid)        →        Σ over the 8 corners: gather(x, corner) · share of the corner

Torch itself writes out the case of two dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.torch_private import statically_known_true

aten = torch.ops.aten

LINEAR, NEAREST = 0, 1
ZEROS, BORDER, REFLECTION = 0, 1, 2
"""torch's numbers for modes of interpolation and of padding."""


def grid_sampler_3d(x: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Tensor:
    """`x` `[batch, channels, depth, height, width]` at `grid` `[batch, …, 3]`: width, height, depth of each point."""
    sizes = x.shape[2:]
    points = [
        _coordinates(grid.select(-1, 2 - dim), size, padding_mode, align_corners) for dim, size in enumerate(sizes)
    ]
    flat = x.flatten(2)
    result: Any = 0
    if interpolation_mode == NEAREST:
        return _looked_up(flat, [point.round() for point in points], sizes)
    floors = [point.floor() for point in points]
    for corner in product((0, 1), repeat=3):
        places = [low + side for low, side in zip(floors, corner, strict=True)]
        share: Any = 1
        for point, low, side in zip(points, floors, corner, strict=True):
            share = share * (point - low if side else low + 1 - point)
        result = result + _looked_up(flat, places, sizes) * share.unsqueeze(1)
    sampled: Tensor = result
    return sampled


def _looked_up(flat: Tensor, places: Sequence[Tensor], sizes: Sequence[int | torch.SymInt]) -> Tensor:
    """The elements at these places, 0 outside."""
    index: Any = 0
    within: Any = True
    for place, size in zip(places, sizes, strict=True):
        inside = (place >= 0) & (place < size)
        within = inside & within
        index = index * size + torch.where(inside, place.to(torch.int64), 0)
    batch, channels = flat.shape[:2]
    shape = index.shape[1:]
    index = index.reshape(batch, 1, -1).expand(batch, channels, -1)
    picked = flat.gather(-1, index).reshape(batch, channels, *shape)
    result: Tensor = picked * within.unsqueeze(1).to(picked.dtype)
    return result


def _coordinates(points: Tensor, size: Any, padding_mode: int, align_corners: bool) -> Tensor:
    """From −1 … 1 to positions; what lies outside is brought back as the padding says."""
    places: Tensor = points * (size * 0.5 - 0.5 if align_corners else size * 0.5) + (size * 0.5 - 0.5)
    if padding_mode == ZEROS:
        return places
    if padding_mode == REFLECTION:
        places = _reflected(places, 0 if align_corners else -1, 2 * (size - 1) if align_corners else 2 * size - 1)
    return places.clamp(0, size - 1)


def _reflected(places: Tensor, twice_low: Any, twice_high: Any) -> Tensor:
    """Folded back and forth until they lie between the ends, which are given as twice their value."""
    if statically_known_true(twice_low == twice_high):
        return torch.zeros(places.shape, dtype=places.dtype, device=places.device)
    low, span = twice_low / 2, (twice_high - twice_low) / 2
    beyond = (places - low).abs()
    rest, flips = torch.fmod(beyond, span), torch.floor(beyond / span)
    return torch.where(torch.remainder(flips, 2) < 1, rest + low, span + low - rest)


DECOMPOSITIONS = {aten.grid_sampler_3d.default: grid_sampler_3d}
