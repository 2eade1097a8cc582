"""Sizes: whole numbers that stem from shapes, kept as Python numbers until an operation needs them.

`Shape → Gather → Concat → Reshape` as tensors would fix every length that it touches, or depend on values. As an array
of ints and SymInts the same chain is arithmetic on sizes, which torch.export leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ratio import Ratio, plain
from .rounds import Round, Until

MOST = 1024
"""Elements of a tensor of constants that is read as sizes where sizes meet it."""
SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool, Ratio)


@dataclass(frozen=True)
class Sizes:
    """A small tensor of numbers that are known when the model is traced, or are sizes of its inputs.

    Args:
        array: of dtype object; holds int, float, bool, SymInt, SymFloat, SymBool, in a loop `Round` or `Until`. Of any
            shape.
        dtype: of the tensor that it stands for.
    """

    array: np.ndarray
    dtype: torch.dtype = torch.int64

    @staticmethod
    def of(values: Any, dtype: torch.dtype = torch.int64) -> Sizes:
        """From a number or a flat iterable of numbers."""
        if isinstance(values, Iterable):
            flat = list(values)
            return Sizes(_filled(flat, (len(flat),)), dtype)
        return Sizes(_filled([values], ()), dtype)

    @staticmethod
    def read(tensor: Tensor) -> Sizes:
        """What a tensor holds; of one whose values are not known yet, sizes that are known when the model runs."""
        values = tensor.reshape(-1).tolist()
        return Sizes(_filled(values, tuple(tensor.shape)), tensor.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor that it stands for."""
        return tuple(self.array.shape)

    @property
    def is_known(self) -> bool:
        """Whether all are plain numbers."""
        return not any(isinstance(value, (*SYMBOLIC, Round, Until)) for value in self.array.flat)

    def list(self) -> list[Any]:
        """The numbers, flat."""
        return [plain(value) for value in self.array.flat]

    def one(self) -> Any:
        """The only number."""
        (value,) = self.array.flat
        return plain(value)

    def tensor(self) -> Tensor:
        """The tensor that it stands for."""
        if self.is_known:
            return torch.tensor(self.array.tolist(), dtype=self.dtype)
        parts = [self._one(value) for value in self.array.flat]
        return torch.stack(parts).reshape(self.shape) if self.shape else parts[0]

    def _one(self, value: Any) -> Tensor:
        if isinstance(value, Round | Until):
            return value.tensor().to(self.dtype)
        return torch.scalar_tensor(plain(value), dtype=self.dtype)

    def each(self, function: Callable[[Any], Any], dtype: torch.dtype | None = None) -> Sizes:
        """The function of each number."""
        return Sizes(_filled([function(value) for value in self.array.flat], self.shape), dtype or self.dtype)

    def with_array(self, array: Any) -> Sizes:
        """The same kind of numbers in another array."""
        return Sizes(as_array(array), self.dtype)


def _filled(values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    # numpy would look for a length, or ask a SymInt for its value.
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    return array.reshape(shape)


def as_array(value: Any) -> np.ndarray:
    """An array of objects; numpy hands out bare elements of those that have no dims."""
    return value if isinstance(value, np.ndarray) else _filled([value], ())


def combined(function: Callable[..., Any], *operands: Sizes, dtype: torch.dtype | None = None) -> Sizes:
    """The function of the numbers side by side, with broadcasting."""
    arrays = np.broadcast_arrays(*(operand.array for operand in operands))
    values = [function(*numbers) for numbers in zip(*(array.flat for array in arrays), strict=True)]
    return Sizes(_filled(values, arrays[0].shape), dtype or operands[0].dtype)
