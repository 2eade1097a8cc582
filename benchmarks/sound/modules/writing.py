"""How a random module is written: lines of Python, each made by an op of the grammar from choices, plain numbers.

Code is written from the shapes that the operands have when it is written. So a case may lose any of its steps and be
written again: the layers after it take what then arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Value:
    """A value of the module: the name that it has in the code, and an example of it."""

    name: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dim(self) -> int:
        return self.tensor.dim()

    def __str__(self) -> str:
        return self.name


@dataclass
class Line:
    """One step while it is written.

    Args:
        number: of the step; its names end in it.
        choices: what `pick` goes by, in order; where they end, every first option is taken.
    """

    number: int
    choices: tuple[int, ...]
    init: list[str] = field(default_factory=list)
    """Lines of `__init__`."""
    before: list[str] = field(default_factory=list)
    """Lines of `forward` in front of the result."""
    used: int = 0

    def pick(self, *options: Any) -> Any:
        """One of the options; the first is the simplest."""
        chosen = self.choices[self.used] if self.used < len(self.choices) else 0
        self.used += 1
        return options[chosen % len(options)]

    def picks(self, count: int, *options: Any) -> tuple[Any, ...]:
        """So many of them."""
        return tuple(self.pick(*options) for _ in range(count))

    def module(self, source: str) -> str:
        """A submodule; returns its name in `forward`."""
        return self._attribute("m", lambda name: f"self.{name} = {source}")

    def parameter(self, *shape: int, scale: float = 1.0) -> str:
        """A parameter of normal numbers."""
        times = "" if scale == 1.0 else f" * {scale}"
        return self._attribute("p", lambda name: f"self.{name} = nn.Parameter(torch.randn({list(shape)}){times})")

    def buffer(self, source: str) -> str:
        """A buffer."""
        return self._attribute("b", lambda name: f'self.register_buffer("{name}", {source})')

    def first(self, statement: str) -> None:
        """A line of `forward` in front of the result."""
        self.before.append(statement)

    def _attribute(self, letter: str, line: Callable[[str], str]) -> str:
        name = f"{letter}{self.number}" + (f"_{len(self.init)}" if self.init else "")
        self.init.append(line(name))
        return f"self.{name}"


Fits = Callable[..., bool]
"""Whether a value may be this operand, given the operands before it."""
Write = Callable[..., "str | None"]
"""`(line, *operands)` → the expression of the result; None: this does not fit."""


@dataclass(frozen=True)
class Op:
    """One way to go on: what it takes, how it is written, and how often it is drawn beside the others."""

    name: str
    takes: tuple[Fits, ...]
    write: Write
    often: int


OPS: dict[str, Op] = {}


def op(*takes: Fits, often: int = 2) -> Callable[[Write], Write]:
    """Register an op by the name of the function that writes it."""

    def register(write: Write) -> Write:
        name = write.__name__
        assert name not in OPS, name
        OPS[name] = Op(name, takes, write, often)
        return write

    return register


def real(x: Value, *before: Value) -> bool:
    """Floating point, one dim at least."""
    return x.tensor.is_floating_point() and x.dim >= 1 and x.tensor.numel() > 0


def wide(x: Value, *before: Value) -> bool:
    """And more than one number in the last dim."""
    return real(x) and x.dim >= 2 and x.shape[-1] >= 2


def rows(x: Value, *before: Value) -> bool:
    """`[rows, features]`."""
    return real(x) and x.dim == 2


def steps(x: Value, *before: Value) -> bool:
    """`[rows, steps, features]`."""
    return real(x) and x.dim == 3


def images(x: Value, *before: Value) -> bool:
    """`[rows, channels, height, width]`."""
    return real(x) and x.dim == 4


def maps(x: Value, *before: Value) -> bool:
    """`[rows, channels, …]`: one to three dims of space."""
    return real(x) and 3 <= x.dim <= 5


def deep(x: Value, *before: Value) -> bool:
    """Three dims or more."""
    return real(x) and x.dim >= 3


def alike(x: Value, *before: Value) -> bool:
    """Of the shape of the operand before it."""
    return real(x) and x.shape == before[-1].shape


def broadcasts(x: Value, *before: Value) -> bool:
    """Can be calculated with beside the operand before it."""
    if not (x.tensor.is_floating_point() or x.tensor.dtype == torch.int64):
        return False
    try:
        torch.broadcast_shapes(x.shape, before[-1].shape)
    except RuntimeError:
        return False
    return True


def whole(x: Value, *before: Value) -> bool:
    """int64, one dim at least."""
    return x.tensor.dtype == torch.int64 and x.dim >= 1


def truth(x: Value, *before: Value) -> bool:
    """A mask that fits the operand before it."""
    if x.tensor.dtype != torch.bool or not before:
        return False
    try:
        return tuple(torch.broadcast_shapes(x.shape, before[-1].shape)) == before[-1].shape
    except RuntimeError:
        return False


def unreal(x: Value, *before: Value) -> bool:
    """Complex."""
    return x.tensor.is_complex() and x.dim >= 1


def anything(x: Value, *before: Value) -> bool:
    """Any value."""
    return True


def divisors(number: int) -> list[int]:
    """Its divisors, itself included."""
    return [d for d in range(1, number + 1) if number % d == 0]
