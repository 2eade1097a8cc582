"""Arithmetic, comparisons and functions of one number."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..registry import Operand, onnx_op
from ..tensors import dtype_of

UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Det": torch.det,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
COMPARISONS: dict[str, Callable[..., Any]] = {
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}
LOGICAL: dict[str, Callable[..., Tensor]] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


def _unary(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor) -> Tensor:
        return function(x)

    return run


def _comparison(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(a: Tensor, b: Operand) -> Any:
        return function(a, b)

    return run


def _logical(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    return run


def _of_many(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*values: Tensor) -> Tensor:
        return reduce(function, values)

    return run


for _name, _function in UNARY.items():
    onnx_op(_name)(_unary(_function))
for _name, _function in COMPARISONS.items():
    onnx_op(_name, since=7)(_comparison(_function))
for _name, _function in LOGICAL.items():
    onnx_op(_name, since=7)(_logical(_function))
onnx_op("Max")(_of_many(torch.maximum))
onnx_op("Min")(_of_many(torch.minimum))
onnx_op("Sum")(_of_many(torch.add))


@onnx_op("Mean")
def mean(*values: Tensor) -> Tensor:
    """Of tensors side by side."""
    return reduce(torch.add, values) / len(values)


@onnx_op("Add", since=7)
def add(a: Operand, b: Operand) -> Any:
    """`a + b`."""
    return a + b


@onnx_op("Mul", since=7)
def multiply(a: Operand, b: Operand) -> Any:
    """`a · b`."""
    return a * b


@onnx_op("Sub", since=7)
def subtract(a: Tensor, b: Operand) -> Tensor:
    """`a − b`."""
    return a - b


@onnx_op("Div", since=7)
def divide(a: Tensor, b: Operand) -> Tensor:
    """`a / b`; of whole numbers, towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@onnx_op("Mod")
def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """What is left of a division: of the divisor's sign, or with `fmod` of the dividend's."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@onnx_op("Pow", since=7)
def power(a: Tensor, b: Operand) -> Tensor:
    """`aᵇ`, in the dtype of a."""
    if not isinstance(b, Tensor):
        whole = isinstance(b, float) and b.is_integer() and abs(b) < 1 << 31
        return torch.pow(a, int(b) if whole else b).to(a.dtype)
    wide = torch.promote_types(a.dtype, b.dtype)
    return torch.pow(a.to(wide), b.to(wide)).to(a.dtype)


@onnx_op("Clip", since=1)
def clip_by_attributes(x: Tensor, *, min: float = float("-inf"), max: float = float("inf")) -> Tensor:
    """Clamped between two attributes."""
    low, high = (bound if abs(bound) < FLOAT_MAX else None for bound in (min, max))
    return x if low is None and high is None else torch.clamp(x, low, high)


FLOAT_MAX = 3.4e38
"""What opset 6 takes for no bound."""


@onnx_op("Clip", since=11)
def clip(x: Tensor, low: Operand | None = None, high: Operand | None = None) -> Tensor:
    """Clamped between two inputs; where they cross, the upper one counts."""
    if low is None and high is None:
        return x
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.minimum(torch.maximum(x, low), high)
    if isinstance(low, Tensor):
        return clip(torch.maximum(x, low), None, high)
    if isinstance(high, Tensor):
        return torch.minimum(clip(x, low), high)
    if low is not None and high is not None and low > high:
        return torch.full_like(x, high)
    return torch.clamp(x, low, high)


@onnx_op("BitShift")
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Bits moved to the left or right; worked out in int64, which has every shift."""
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)


@onnx_op("IsInf")
def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Where it is infinite, of the signs asked for."""
    above = torch.isposinf(x) if detect_positive else torch.zeros_like(x, dtype=torch.bool)
    return above | torch.isneginf(x) if detect_negative else above


@onnx_op("Where")
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One or the other."""
    return torch.where(condition, a, b)


@onnx_op("BitCast")
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    """The same bits as another dtype."""
    return x.view(dtype_of(to, "BitCast"))
