"""Which step of a loop it is, as a number that is known but for that: `first + slope · step`.

Where a step reads and writes, and when a loop ends, follows from such numbers: `x[n − 1 − i]`, `i + 1 < n`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.errors import CaptureError


class NotKnownError(CaptureError):
    """What is asked of a number is known of no loop's step, or of no range of an open size."""


class TooLongError(CaptureError):
    """A loop has more rounds than are unrolled; at a larger size it has as many."""


class Round:
    """The number of a loop's step, times a number, plus another.

    Args:
        first: its value at the first step: a number, or a size.
        slope: by how much it grows from step to step.
        step: the number of the step, a whole number without dims; None where it is only asked how it grows.
    """

    def __init__(self, first: Any = 0, slope: Any = 1, step: Tensor | None = None) -> None:
        self.first, self.slope, self.step = first, slope, step

    def tensor(self) -> Tensor:
        """The number, without dims."""
        if self.step is None:
            raise NotKnownError("How long a Loop goes on depends on more than the numbers of its steps.")
        grown = self.step if _is(self.slope, 1) else self.step * self.slope
        return grown if _is(self.first, 0) else grown + self.first

    def at(self, count: Any) -> Any:
        """Its value behind so many steps."""
        return self.first + self.slope * count

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Round):
            slope, first = self.slope + other.slope, self.first + other.first
            return first if _is(slope, 0) else Round(first, slope, self.step)
        return Round(self.first + other, self.slope, self.step)

    __radd__ = __add__

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Round):
            return self._unknown()
        return Round(self.first * other, self.slope * other, self.step)

    __rmul__ = __mul__

    def __lt__(self, other: Any) -> Any:
        return self._below(other - self)

    def __le__(self, other: Any) -> Any:
        return self._below(other - self + 1)

    def __gt__(self, other: Any) -> Any:
        return self._below(self - other)

    def __ge__(self, other: Any) -> Any:
        return self._below(self - other + 1)

    def _below(self, room: Any) -> Any:
        """Whether there is room yet, of which every step takes one."""
        if not isinstance(room, Round):
            return room > 0
        return Until(room.first, self.step) if _is(room.slope, -1) else self._unknown()

    def _unknown(self, *_: Any) -> Any:
        raise NotKnownError(
            "A Loop of an open number of steps makes a size, or a course, of the number of its step: no one graph of a "
            "step can be explained that does."
        )

    __eq__ = __ne__ = __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _unknown
    __pow__ = __rpow__ = __abs__ = __int__ = __index__ = __float__ = __bool__ = __floor__ = __ceil__ = _unknown
    __hash__ = object.__hash__


class Until:
    """A condition that holds in the first so many steps of a loop, and in none behind them.

    Args:
        count: how many.
        step: the number of the step, as that of a `Round`.
    """

    def __init__(self, count: Any, step: Tensor | None = None) -> None:
        self.count, self.step = count, step

    def tensor(self) -> Tensor:
        """The condition, without dims."""
        return Round(step=self.step).tensor() < self.count

    def __and__(self, other: Any) -> Any:
        if isinstance(other, Until):
            return Until(torch.sym_min(self.count, other.count), self.step)
        return self if other else False

    __rand__ = __and__

    def __bool__(self) -> bool:
        raise NotKnownError(
            "A Loop of an open number of steps asks for the number of its step, and goes another way in some steps: "
            "choose with Where."
        )

    __or__ = __ror__ = __xor__ = __rxor__ = __bool__


def _is(number: Any, value: int) -> bool:
    return isinstance(number, int) and number == value
