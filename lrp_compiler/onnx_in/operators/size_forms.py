"""What operators do to sizes: the arithmetic between Shape and Reshape, on numbers instead of tensors."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lrp_compiler.torch_private import statically_known_true

from ..ratio import Ratio, plain
from ..registry import size_form
from ..rounds import NotKnownError, Round, Until
from ..sizes import SYMBOLIC, Sizes, combined
from ..tensors import dtype_of


def _truth(condition: Any) -> Any:
    """Whether it holds, for every size that there may be; a condition that ends a loop stays one."""
    if isinstance(condition, Until):
        return condition
    if not isinstance(condition, torch.SymBool):
        return bool(condition)
    if statically_known_true(condition):
        return True
    if statically_known_true(torch.sym_not(condition)):
        return False
    raise NotKnownError("Of an open size it is asked how large it is.")


def _divided(a: Any, b: Any) -> Any:
    """Towards zero if they are whole."""
    if any(isinstance(one, float | torch.SymFloat | Ratio) for one in (a, b)):
        return a / b
    if _truth(a >= 0) == _truth(b >= 0):
        return a // b
    return -(-a // b)


def _power(a: Any, b: Any) -> Any:
    return a**b


def _whole(x: Any) -> Any:
    if isinstance(x, Ratio):
        return x.floor()  # of what is not negative
    if isinstance(x, Round):
        return x
    return torch.sym_int(x) if isinstance(x, SYMBOLIC) else int(x)


def _floated(x: Any) -> Any:
    """A number as a float; of an open size a ratio, which is rounded to a whole number again without leaving those."""
    if isinstance(x, Ratio):
        return x
    return Ratio(x) if isinstance(x, torch.SymInt) else torch.sym_float(x)


def _single(x: Any) -> Any:
    """A plain number rounded as float32 has it."""
    return x if isinstance(x, SYMBOLIC) else float(np.float32(x))


def _rounded(array: Sizes) -> Sizes:
    return array.each(_single) if array.dtype == torch.float32 else array


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divided,
    "Pow": _power,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
}
COMPARISONS: dict[str, Callable[..., Any]] = {
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}
LOGICAL: dict[str, Callable[..., Any]] = {"And": operator.and_, "Or": operator.or_, "Xor": operator.xor}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": lambda x: torch.sym_max(x, -x),
    "Ceil": lambda x: Ratio(x.ceil()) if isinstance(x, Ratio) else math.ceil(x),
    "Floor": lambda x: Ratio(x.floor()) if isinstance(x, Ratio) else math.floor(x),
    "Neg": operator.neg,
    "Sqrt": lambda x: torch.sym_sqrt(plain(x)),
}


def _register() -> None:
    for name, function in ARITHMETIC.items():
        size_form(name)(_arithmetic(function))
    for name, function in COMPARISONS.items():
        size_form(name)(_comparison(function))
    for name, function in LOGICAL.items():
        size_form(name)(_comparison(function))
    for name, function in FUNCTIONS.items():
        size_form(name)(_function(function))


def _arithmetic(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*operands: Sizes) -> Any:
        result = operands[0]
        for other in operands[1:]:
            result = _rounded(combined(function, result, other))
        return result

    return run


def _comparison(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(a: Sizes, b: Sizes) -> Sizes:
        return combined(lambda x, y: _truth(function(x, y)), a, b, dtype=torch.bool)

    return run


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Sizes) -> Any:
        floats = x.dtype.is_floating_point
        return _rounded(x.each(lambda value: _floated(function(value)) if floats else function(value)))

    return run


_register()


@size_form("Mod")
def modulo(a: Sizes, b: Sizes, *, fmod: int = 0) -> Any:
    """What is left of a division, of the divisor's sign."""
    return NotImplemented if fmod else combined(operator.mod, a, b)


@size_form("Not")
def negation(x: Sizes) -> Sizes:
    """The opposite."""
    return x.each(operator.not_)


@size_form("Where")
def where(condition: Sizes, a: Sizes, b: Sizes) -> Sizes:
    """One or the other."""
    return combined(lambda which, x, y: x if which else y, condition, a, b, dtype=a.dtype)


@size_form("Cast")
def cast(x: Sizes, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    """In another dtype: towards zero, if that is a whole one."""
    dtype = dtype_of(to, "A Cast")
    if dtype == torch.bool:
        return x.each(lambda value: _truth(value != 0), dtype)
    if dtype.is_floating_point:
        return _rounded(x.each(_floated, dtype)) if dtype in (torch.float32, torch.float64) else NotImplemented
    return x.each(_whole, dtype) if dtype in (torch.int64, torch.int32) else NotImplemented


@size_form("Identity")
def identity(x: Sizes) -> Sizes:
    """As they are."""
    return x


@size_form("Gather")
def gather(x: Sizes, indices: Sizes, *, axis: int = 0) -> Any:
    """Those at these places."""
    if not indices.is_known or not x.shape:
        return NotImplemented
    return x.with_array(np.take(x.array, indices.array.astype(np.int64), axis=axis))


@size_form("Slice")
def slice_inputs(
    x: Sizes,
    starts_input: Sizes | None = None,
    ends_input: Sizes | None = None,
    axes_input: Sizes | None = None,
    steps_input: Sizes | None = None,
    *,
    starts: list[int] | None = None,
    ends: list[int] | None = None,
    axes: list[int] | None = None,
) -> Any:
    """Those from here to there."""
    given = [starts_input, ends_input, axes_input, steps_input]
    if any(one is not None and not one.is_known for one in given):
        return NotImplemented
    read = [None if one is None else [int(value) for value in one.list()] for one in given]
    first, last = (read[0] or starts or []), (read[1] or ends or [])
    dims = read[2] or axes or list(range(len(first)))
    steps = read[3] or [1] * len(first)
    chosen = [slice(None)] * len(x.shape)
    for start, end, dim, step in zip(first, last, dims, steps, strict=True):
        beyond = step < 0 and end < -x.shape[dim]
        chosen[dim] = slice(start, None if beyond else end, step)
    return x.with_array(x.array[tuple(chosen)])


@size_form("Concat")
def concat(*values: Sizes, axis: int) -> Sizes:
    """One behind the other."""
    return values[0].with_array(np.concatenate([value.array for value in values], axis))


@size_form("Split")
def split(
    x: Sizes,
    sizes: Sizes | None = None,
    *,
    axis: int = 0,
    split: list[int] | None = None,
    num_outputs: int | None = None,
) -> Any:
    """In pieces."""
    given = split if sizes is None else sizes.list()
    if given is None or (sizes is not None and not sizes.is_known):
        return NotImplemented
    return tuple(x.with_array(part) for part in np.split(x.array, np.cumsum(given)[:-1], axis))


@size_form("Unsqueeze")
def unsqueeze(x: Sizes, axes_input: Sizes | None = None, *, axes: list[int] | None = None) -> Sizes:
    """With more dims."""
    given = (axes or []) if axes_input is None else axes_input.list()
    return x.with_array(np.expand_dims(x.array, tuple(given)))


@size_form("Squeeze")
def squeeze(x: Sizes, axes_input: Sizes | None = None, *, axes: list[int] | None = None) -> Sizes:
    """With fewer dims."""
    given = axes if axes_input is None else axes_input.list()
    return x.with_array(np.squeeze(x.array, None if given is None else tuple(given)))


@size_form("Reshape")
def reshape(x: Sizes, shape: Sizes, *, allowzero: int = 0) -> Any:
    """In another shape."""
    if not shape.is_known:
        return NotImplemented
    return x.with_array(x.array.reshape([x.shape[k] if n == 0 else n for k, n in enumerate(shape.list())]))


@size_form("Transpose")
def transpose(x: Sizes, *, perm: list[int] | None = None) -> Sizes:
    """With dims in another order."""
    return x.with_array(x.array.transpose(perm))


@size_form("Expand")
def expand(x: Sizes, shape: Sizes) -> Any:
    """Repeated along dims of size 1."""
    if not shape.is_known or math.prod(shape.list()) > FEW:
        return NotImplemented
    return x.with_array(np.broadcast_to(x.array, np.broadcast_shapes(x.shape, tuple(shape.list()))))


@size_form("Tile")
def tile(x: Sizes, repeats: Sizes) -> Any:
    """Repeated."""
    return x.with_array(np.tile(x.array, repeats.list())) if repeats.is_known else NotImplemented


FEW = 1024
"""Numbers that are kept as such."""


def _reduction(start: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(
        x: Sizes,
        axes_input: Sizes | None = None,
        *,
        axes: list[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Any:
        given = axes if axes_input is None else axes_input.list()
        if len(x.shape) != 1 or (not given and noop_with_empty_axes):
            return NotImplemented
        numbers = x.list()
        total = functools.reduce(function, numbers[1:], numbers[0]) if numbers else start
        return Sizes.of([total], x.dtype) if keepdims else Sizes.of(total, x.dtype)

    return run


size_form("ReduceProd")(_reduction(1, operator.mul))
size_form("ReduceSum")(_reduction(0, operator.add))
size_form("ReduceMax")(_reduction(0, torch.sym_max))
size_form("ReduceMin")(_reduction(0, torch.sym_min))
