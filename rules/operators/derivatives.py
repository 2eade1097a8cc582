"""Derivatives of functions with corners, jumps or poles: which differences from a reference need where they are small.

Of every other function of one operand a central difference gives it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.op import Op
from lrp_compiler.rules.relevance import signum
from lrp_compiler.rules.traits import Derivative, declare

from .functions import bounds

aten = torch.ops.aten


def _flags(flags: Tensor, like: Tensor) -> Tensor:
    return flags.to(like.dtype)


def _rectified(op: Op, x: Tensor) -> Tensor:
    return _flags(x > 0, x)


def _within(low: float | None, high: float | None, x: Tensor) -> Tensor:
    above = torch.ones_like(x) if low is None else _flags(x > low, x)
    return above if high is None else above * _flags(x < high, x)


def _clamped(op: Op, x: Tensor) -> Tensor:
    given = {name: op.option(name) for name in op.arguments if name.startswith(("min", "max"))}
    low, high = bounds(given) if given else (0.0, 6.0)
    return _within(low, high, x)


def _leaky(op: Op, x: Tensor) -> Tensor:
    slope: float = op.option("negative_slope")
    return _rectified(op, x) * (1 - slope) + slope


def _power(op: Op, x: Tensor) -> Tensor:
    exponent = op.number("exponent")
    return exponent * x ** (exponent - 1)


def _of_constant(op: Op, x: Tensor) -> Tensor:
    return -op.factor("self") / (x * x)


def _logarithm(base: float) -> Derivative:
    scale = 1 / torch.tensor(base, dtype=torch.float64).log().item()
    return lambda op, x: scale / x


def _none(op: Op, x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _one(op: Op, x: Tensor) -> Tensor:
    return torch.ones_like(x)


for _target, _derivative in {
    aten.relu.default: _rectified,
    aten.relu6.default: _clamped,
    aten.hardtanh.default: _clamped,
    aten.clamp.default: _clamped,
    aten.clamp_min.default: _clamped,
    aten.clamp_max.default: _clamped,
    aten.leaky_relu.default: _leaky,
    aten.hardswish.default: lambda op, x: _within(-3, 3, x) * (2 * x + 3) / 6 + _flags(x >= 3, x),
    aten.hardsigmoid.default: lambda op, x: _within(-3, 3, x) / 6,
    aten.softshrink.default: lambda op, x: _flags(x.abs() > op.option("lambd"), x),
    aten.hardshrink.default: lambda op, x: _flags(x.abs() > op.option("lambd"), x),
    aten.abs.default: lambda op, x: signum(x),
    **dict.fromkeys((aten.sign.default, aten.floor.default, aten.ceil.default, aten.trunc.default), _none),
    **dict.fromkeys((aten.round.default, aten.round.decimals), _none),
    **dict.fromkeys((aten.fmod.Scalar, aten.remainder.Scalar), _one),
    aten.sqrt.default: lambda op, x: 0.5 * x.rsqrt(),
    aten.rsqrt.default: lambda op, x: -0.5 * x.rsqrt() / x,
    aten.reciprocal.default: lambda op, x: -1 / (x * x),
    aten.div.Tensor: _of_constant,
    aten.pow.Tensor_Scalar: _power,
    aten.log.default: lambda op, x: 1 / x,
    aten.log2.default: _logarithm(2.0),
    aten.log10.default: _logarithm(10.0),
    aten.log1p.default: lambda op, x: 1 / (1 + x),
}.items():
    declare(_target, derivative=_derivative)
