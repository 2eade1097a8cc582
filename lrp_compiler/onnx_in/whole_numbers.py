"""Whole numbers that quantisation made, kept as the floats that they are worth until somebody needs them as whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


@dataclass(frozen=True, eq=False)
class Rows(Whole):
    """Rows of a table of stored numbers: what they are worth is looked up in what the table is worth.

    The index gets all relevance of a row then, and none stays with a zero point that is taken away from it.

    Args:
        table: whole numbers `[rows, features]`.
        indices: of the rows.
    """

    table: Tensor = field(kw_only=True)
    indices: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, table: Tensor, indices: Tensor) -> Rows:
        """The rows of a table at these indices."""
        return cls(F.embedding(indices, table.float()), None, table.dtype, table=table, indices=indices)

    def less(self, zero: Sizes | Tensor | None) -> Tensor:
        """As floats, less this zero point: taken from the table where there is one for all of it."""
        one = zero is None or not (zero.shape if isinstance(zero, Sizes) else zero.dim())
        return F.embedding(self.indices, added(self.table.float(), zero, -1)) if one else super().less(zero)


@dataclass(frozen=True, eq=False)
class Scaled:
    """What whole numbers are worth: `values · step`.

    A map of whole numbers is worked out before it is scaled: its sums are exact in whatever order they are added up,
    and so they are the ones that a runtime gets that calculates with the integers themselves.

    Args:
        values: whole numbers less their zero point, as floats.
        step: what one of them is worth, in a shape that broadcasts with them.
        dtype: of the product.
    """

    values: Tensor
    step: Any
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> Any:
        """Of the tensor."""
        return self.values.shape

    @property
    def is_even(self) -> bool:
        """Whether all are worth the same, wherever they are moved."""
        return not isinstance(self.step, Tensor) or self.step.dim() == 0

    def moved(self, function: Callable[[Tensor], Tensor]) -> Scaled:
        """Its elements elsewhere; all are worth the same."""
        return Scaled(function(self.values), self.step, self.dtype)

    def tensor(self) -> Tensor:
        """The floats."""
        return (self.values * self.step).to(self.dtype)


def times(a: Any, b: Any) -> Any:
    """Of two steps, in single precision."""
    return a * b if isinstance(a, Tensor) or isinstance(b, Tensor) else float(np.float32(a) * np.float32(b))


def added(values: Tensor, zero: Sizes | Tensor | None, sign: int = 1) -> Tensor:
    """Floats and a zero point."""
    if zero is None:
        return values
    if isinstance(zero, Sizes) and not zero.shape:
        return values + sign * zero.one()
    return values + sign * (zero.tensor() if isinstance(zero, Sizes) else zero).to(values.dtype)


def _same(a: Sizes, b: Sizes) -> bool:
    return a.shape == b.shape and a.list() == b.list()
