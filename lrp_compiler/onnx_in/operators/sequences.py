"""Lists of tensors, and values that may be missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op
from ..sizes import Sizes


@dataclass(frozen=True, eq=False)
class Series:
    """A sequence of as many tensors as an open size says: what the steps of a loop made.

    Args:
        stacked: all of them, one behind the other in front.
    """

    stacked: Tensor


def _tensors(values: list[Any]) -> list[Tensor]:
    return [value.tensor() if isinstance(value, Sizes) else value for value in values]


@onnx_op("SequenceConstruct")
def sequence(*values: Any) -> list[Any]:
    """A list of these."""
    return list(values)


@onnx_op("SequenceEmpty")
def no_sequence(*, dtype: int = 1) -> list[Any]:
    """A list of nothing."""
    return []


@onnx_op("SequenceAt")
def element(values: Any, place: Sizes) -> Any:
    """The element at a place."""
    return values.stacked.select(0, place.one()) if isinstance(values, Series) else values[place.one()]


@onnx_op("SequenceLength")
def length(values: Any) -> Sizes:
    """How many there are."""
    return Sizes.of(values.stacked.shape[0] if isinstance(values, Series) else len(values))


@onnx_op("SequenceInsert")
def inserted(values: Any, value: Any, place: Sizes | None = None) -> list[Any]:
    """With one more, at the end or in front of a place."""
    at = len(values) if place is None else place.one()
    at = at + len(values) if at < 0 else at
    return [*values[:at], value, *values[at:]]


@onnx_op("SequenceErase")
def erased(values: Any, place: Sizes | None = None) -> list[Any]:
    """Without the last one, or the one at a place."""
    at = (len(values) - 1 if place is None else place.one()) % len(values)
    return [*values[:at], *values[at + 1 :]]


@onnx_op("ConcatFromSequence")
def joined(values: Any, *, axis: int, new_axis: int = 0) -> Tensor:
    """One behind the other along an axis, or a new one."""
    if isinstance(values, Series):
        axis = axis % (values.stacked.dim() - 1 + new_axis)
        along = values.stacked.movedim(0, axis)
        return along if new_axis else along.flatten(axis, axis + 1)
    return torch.stack(_tensors(values), axis) if new_axis else torch.cat(_tensors(values), axis)


@onnx_op("SplitToSequence")
def pieces(x: Tensor, sizes: Sizes | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """In pieces along an axis: of one size, of several, or of one element each."""
    if sizes is None:
        parts = x.split(1, axis)
        return list(parts) if keepdims else [part.squeeze(axis) for part in parts]
    if not sizes.shape:
        return list(x.split(sizes.one(), axis))
    return list(x.split(sizes.list(), axis))


@onnx_op("SequenceMap")
def mapped(values: Any, *others: Any, body: Callable[..., Any]) -> Any:
    """What a graph makes of each element."""
    count = len(values)
    columns = [one if isinstance(one, list) else [one] * count for one in (values, *others)]
    results = [body(*row) for row in zip(*columns, strict=True)]
    return tuple(list(parts) for parts in zip(*results, strict=True))


@onnx_op("Optional")
def optional(value: Any = None, *, type: Any = None) -> Any:
    """A value, or none."""
    return value


@onnx_op("OptionalHasElement")
def has_element(value: Any = None) -> Sizes:
    """Whether there is one."""
    return Sizes.of(value is not None, torch.bool)


@onnx_op("OptionalGetElement")
def get_element(value: Any) -> Any:
    """The value."""
    return value
