"""A network that is exported, and what it is run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

ATTENTION = 14
"""The first opset in which tracing has a name for attention."""


@dataclass(frozen=True)
class Subject:
    """A small network with random weights.

    Args:
        model: in eval mode; it takes tensors by position and returns one.
        make: (batch, length) → its inputs.
        inputs: what they are called.
        sequences: those of the inputs that are `[batch, length]`, both open; of all others the batch alone is.
        target: what is explained.
        lengths: of the example, and of two runs.
        since: the first opset that has its operators.
    """

    model: nn.Module
    make: Callable[[int, int], tuple[Any, ...]]
    inputs: tuple[str, ...] = ("x",)
    sequences: tuple[str, ...] = ()
    target: Any = 1
    lengths: tuple[int, int, int] = (9, 7, 12)
    since: int = 11
