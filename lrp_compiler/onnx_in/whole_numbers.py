"""Whole numbers that quantisation made, kept as the floats that they are worth until somebody needs them as whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .sizes import Sizes


@dataclass(frozen=True, eq=False)
class Whole:
    """A quantised tensor: `values + zero`.

    Relevance passes a pair of quantise and dequantise as one function that is nearly x, which it would not if the zero
    point were added in between and taken away again: what is added takes a share. Floats hold every whole number of
    this size exactly.

    Args:
        values: whole numbers less their zero point, as floats.
        zero: the zero point, in a shape that broadcasts with them: its numbers where it is a constant; None: 0.
        dtype: of the whole numbers.
    """

    values: Tensor
    zero: Sizes | Tensor | None
    dtype: torch.dtype

    @property
    def shape(self) -> Any:
        """Of the tensor."""
        return self.values.shape

    @property
    def is_even(self) -> bool:
        """Whether one zero point is that of all elements, wherever they are moved."""
        return self.zero is None or (isinstance(self.zero, Sizes) and not self.zero.shape)

    def moved(self, function: Callable[[Tensor], Tensor]) -> Whole:
        """Its elements elsewhere; there is one zero point for all of them."""
        return Whole(function(self.values), self.zero, self.dtype)

    def tensor(self) -> Tensor:
        """The whole numbers."""
        return added(self.values, self.zero).to(self.dtype)

    def less(self, zero: Sizes | Tensor | None) -> Tensor:
        """As floats, less this zero point: the values themselves, where it is the one that was added."""
        if zero is self.zero or (isinstance(zero, Sizes) and isinstance(self.zero, Sizes) and _same(zero, self.zero)):
            return self.values
        return added(added(self.values, self.zero), zero, -1)


def added(values: Tensor, zero: Sizes | Tensor | None, sign: int = 1) -> Tensor:
    """Floats and a zero point."""
    if zero is None:
        return values
    if isinstance(zero, Sizes) and not zero.shape:
        return values + sign * zero.one()
    return values + sign * (zero.tensor() if isinstance(zero, Sizes) else zero).to(values.dtype)


def _same(a: Sizes, b: Sizes) -> bool:
    return a.shape == b.shape and a.list() == b.list()
