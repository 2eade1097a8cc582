"""Fractions of open sizes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch


class Ratio:
    """An open size times a fraction: a float whose rounding is arithmetic of whole numbers.

    `floor(0.5 · n)` is n // 2, of which torch.export knows the range; of floats it knows little.

    Args:
        above: the size.
        below: what it is divided by, above 0.
    """

    MOST = 4096
    """What a fraction is divided by at most; other factors make plain floats."""

    def __init__(self, above: Any, below: int = 1) -> None:
        self.above, self.below = above, below

    def floor(self) -> Any:
        """Rounded down."""
        return self.above // self.below

    def ceil(self) -> Any:
        """Rounded up."""
        return -(-self.above // self.below)

    def float(self) -> Any:
        """As a float."""
        return torch.sym_float(self.above) / self.below

    def __mul__(self, other: Any) -> Any:
        part = _fraction(other)
        if part is None:
            return self.float() * plain(other)
        return Ratio(self.above * part.numerator, self.below * part.denominator)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        part = _fraction(other)
        if part is None or part <= 0:
            return self.float() / plain(other)
        return Ratio(self.above * part.denominator, self.below * part.numerator)

    def __rtruediv__(self, other: Any) -> Any:
        return plain(other) / self.float()

    def __add__(self, other: Any) -> Any:
        part = _fraction(other)
        if part is None:
            return self.float() + plain(other)
        return Ratio(self.above * part.denominator + part.numerator * self.below, self.below * part.denominator)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self + -plain(other)

    def __rsub__(self, other: Any) -> Any:
        return plain(other) - self.float()

    def __neg__(self) -> Any:
        return -self.float()

    def __pow__(self, other: Any) -> Any:
        return self.float() ** plain(other)

    def __lt__(self, other: Any) -> Any:
        return self.float() < plain(other)

    def __le__(self, other: Any) -> Any:
        return self.float() <= plain(other)

    def __gt__(self, other: Any) -> Any:
        return self.float() > plain(other)

    def __ge__(self, other: Any) -> Any:
        return self.float() >= plain(other)


def _fraction(number: Any) -> Fraction | None:
    """A plain number as a fraction of small numbers, as float32 has it; None: it is none."""
    if isinstance(number, Ratio | torch.SymInt | torch.SymFloat):
        return None
    near = Fraction(number).limit_denominator(Ratio.MOST)
    return near if float(np.float32(float(near))) == float(np.float32(number)) else None


def plain(number: Any) -> Any:
    """A ratio as a float; any other number as it is."""
    return number.float() if isinstance(number, Ratio) else number
