"""Inputs by what draws them: images, tokens, sound, graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.networks.architectures.sizes import NARROW_VOCABULARY


class Input(NamedTuple):
    """An input: what draws it, and its shape, dynamic dims by name."""

    draw: Callable[[tuple[int, ...], torch.Generator], Tensor]
    shape: tuple[str | int, ...]


def patches(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Coarse patches with some grain, unit variance: noise alone would look the same in every row."""
    space = shape[2:]
    coarse = torch.randn(*shape[:2], *(5,) * len(space), generator=generator)
    mode = ("linear", "bilinear", "trilinear")[len(space) - 1]
    image = functional.interpolate(coarse, size=space, mode=mode) + 0.3 * torch.randn(shape, generator=generator)
    return image / image.std()


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def tokens(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Token ids above the special ones."""
    return torch.randint(3, NARROW_VOCABULARY, shape, generator=generator)


def flattened_patches(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Pix2Struct's: row and column of each patch (counted from 1), then its pixels."""
    drawn = torch.randn(shape, generator=generator)
    index = torch.arange(shape[1], dtype=drawn.dtype)
    columns = max(1, math.isqrt(shape[1]))
    drawn[..., 0], drawn[..., 1] = index // columns + 1, index % columns + 1
    return drawn


def nodes_of_a_graph(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, GRAPH_NODES, shape, generator=generator)


GRAPH_NODES = 6


def image(size: int, name: str = "x") -> dict[str, Input]:
    return {name: Input(patches, ("batch", 3, size, size))}


def ids(length: str | int = "sequence", *names: str) -> dict[str, Input]:
    return {name: Input(tokens, ("batch", length)) for name in names or ("input_ids",)}


TEXT: dict[str, Any] = {"sequence": (12, 7, 9, 17)}
BOTH: dict[str, Any] = {"sequence": (12, 7, 9, 17), "target_sequence": (6, 5, 9, 11)}
