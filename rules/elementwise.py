"""Elementwise functions of one activation: the identity rule, `R_x = R`.

An operator of this family gives the quotient `f(x)/x` that the unit form is multiplied by, or `None` where f(0) ≠ 0:
then no finite quotient exists near 0 and relevance goes on in total form. Where a closed form of the quotient is
known (`gelu(x)/x = Φ(x)`) it is used: no division, and f'(0) at x = 0 comes by itself.

Source: Achtibat et al., "AttnLRP", arXiv 2402.05602 (identity rule); products with a constant give all to the
activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .op import Op, one_active, only
from .registry import FUNCTION, Flow, family_rule, operator
from .relevance import Relevance, sum_to_shape, total, unit

aten = torch.ops.aten

Quotient = Callable[[], Tensor | float] | None


@family_rule("elementwise", "identity")
def identity(op: Op, quotient: Quotient, relevance: Relevance) -> Flow:
    """`R_x = R`; in unit form `g_x = g ⊙ f(x)/x`."""
    (operand,) = op.active
    shape, dtype = op.shape(operand), op.dtype(operand)
    if relevance.form == "unit" and quotient is not None:
        factor = quotient()
        g = relevance.tensor if isinstance(factor, (int, float)) and factor == 1 else relevance.tensor * factor
        carried = unit(g, lambda: op.total(relevance))
    else:
        carried = total(op.total(relevance))
    # Pixels (uint8) that are cast to float keep their relevance in float.
    share = carried.map(lambda r: sum_to_shape(r.to(dtype) if dtype.is_floating_point else r, shape))
    # A constant factor's own relevance is all that goes through it.
    return {operand: share, **{name: total(sum_to_shape(op.total(relevance), op.shape(name))) for name in op.wanted}}


@family_rule("elementwise", "zero")
def zero(op: Op, quotient: Quotient, relevance: Relevance) -> Flow:
    """Nothing goes on."""
    op.absorb("zero", lambda: op.total(relevance))
    return dict.fromkeys(op.active)


def safe_quotient(y: Tensor, x: Tensor, slope_at_zero: float) -> Tensor:
    """`f(x)/x` for f(0) = 0, with f'(0) at x = 0. No `where`: its scalar branches are slow in onnxruntime."""
    at_zero = (x == 0).to(x.dtype)
    if slope_at_zero == 0:
        return y / (x + at_zero)
    return (y + slope_at_zero * at_zero) / (x + at_zero)


def elementwise(*targets: Any, kind: str = "activation", when: Any = None) -> Any:
    """Register the quotient of elementwise ops."""
    return operator(*targets, kind=kind, family="elementwise", rule="identity", when=when)


@elementwise(aten.relu.default)
def relu(op: Op) -> Quotient:
    """1 where x > 0; the result is ≥ 0, so its signum says it."""
    return lambda: op.output.sign()


@elementwise(
    aten.hardtanh.default,
    aten.relu6.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    when=lambda op: spans_zero(op),
)
def clamp(op: Op) -> Quotient:
    """Clamps with min ≤ 0 ≤ max are activations: relevance is not lost on the plateau."""
    return lambda: safe_quotient(op.output, op.tensor("self"), 1.0)


def spans_zero(op: Op) -> bool:
    """Whether a clamp's range holds 0."""
    low = op.arguments.get("min_val", op.arguments.get("min", 0))
    high = op.arguments.get("max_val", op.arguments.get("max", 6))
    return (low is None or low <= 0) and (high is None or high >= 0)


@elementwise(aten.gelu.default)
def gelu(op: Op) -> Quotient:
    """Φ(x), or its tanh approximation."""

    def quotient() -> Tensor:
        x = op.tensor("self")
        if op.option("approximate") == "tanh":
            return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
        return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))

    return quotient


@elementwise(aten.silu.default)
def silu(op: Op) -> Quotient:
    """σ(x)."""
    return lambda: torch.sigmoid(op.tensor("self"))


@elementwise(aten.hardswish.default)
def hardswish(op: Op) -> Quotient:
    """relu6(x + 3)/6."""
    return lambda: (op.tensor("self") + 3).clamp(0, 6) / 6


@elementwise(aten.mish.default)
def mish(op: Op) -> Quotient:
    """tanh(softplus(x))."""
    return lambda: torch.tanh(torch.nn.functional.softplus(op.tensor("self")))


SLOPE_AT_ZERO: dict[Any, float] = {
    aten.tanh.default: 1.0,
    aten.sin.default: 1.0,
    aten.tan.default: 1.0,
    aten.asin.default: 1.0,
    aten.atan.default: 1.0,
    aten.sinh.default: 1.0,
    aten.asinh.default: 1.0,
    aten.atanh.default: 1.0,
    aten.erf.default: 2 / math.sqrt(math.pi),
    aten.erfinv.default: math.sqrt(math.pi) / 2,
    aten.expm1.default: 1.0,
    aten.log1p.default: 1.0,
    aten.celu.default: 1.0,
    aten.softshrink.default: 0.0,
    aten.hardshrink.default: 0.0,
    aten.fmod.Scalar: 1.0,
}
"""f'(0) of functions with f(0) = 0."""


@elementwise(*SLOPE_AT_ZERO)
def through_zero(op: Op) -> Quotient:
    """f(x)/x where f(0) = 0, with the slope there."""
    return lambda: safe_quotient(op.output, op.tensor("self"), SLOPE_AT_ZERO[op.target])


@elementwise(aten.leaky_relu.default)
def leaky_relu(op: Op) -> Quotient:
    """1 where x > 0, else the negative slope."""
    slope = op.option("negative_slope")
    return lambda: (op.tensor("self") > 0).to(op.dtype("self")) * (1 - slope) + slope


@elementwise(aten.elu.default)
def elu(op: Op) -> Quotient:
    """elu(x)/x with slope scale·alpha·input_scale at 0."""
    slope = op.option("alpha") * op.option("scale") * op.option("input_scale")
    return lambda: safe_quotient(op.output, op.tensor("self"), slope)


WITHOUT_ZERO = (
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
    aten.log_sigmoid.default,
    aten.exp.default,
    aten.exp2.default,
    aten.cos.default,
    aten.cosh.default,
    aten.acos.default,
    aten.acosh.default,
    aten.erfc.default,
    aten.log.default,
    aten.log2.default,
    aten.log10.default,
    aten.lgamma.default,
    aten.digamma.default,
    aten.i0.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.remainder.Scalar,
    aten.pow.Scalar,
)
"""Functions with f(0) ≠ 0, or with an infinite slope or a jump there."""


@elementwise(*WITHOUT_ZERO)
@elementwise(aten.pow.Tensor_Tensor, aten.atan2.default, when=one_active)
def without_zero(op: Op) -> Quotient:
    """No finite quotient at 0: total form."""
    return None


STEPS = {
    aten.floor.default,
    aten.ceil.default,
    aten.round.default,
    aten.round.decimals,
    aten.trunc.default,
    aten.sign.default,
}


@operator(*STEPS, kind="step", family="elementwise", rule="zero")
def step(op: Op) -> Quotient:
    """A piecewise constant function: a small change of x changes nothing, so nothing goes on; `identity` can be asked
    for, in total form."""
    return None


@elementwise(aten.abs.default)
def absolute(op: Op) -> Quotient:
    """sgn x."""
    return lambda: op.tensor("self").sign()


@elementwise(aten.pow.Tensor_Scalar)
def power(op: Op) -> Quotient:
    """x^(n−1) for n ≥ 1; below that total form."""
    exponent = op.option("exponent")
    if exponent < 1:
        return None
    return lambda: op.tensor("self") if exponent == 2 else op.tensor("self") ** (exponent - 1)


@elementwise(aten.neg.default, kind="scale")
def negate(op: Op) -> Quotient:
    """−1."""
    return lambda: -1.0


@elementwise(aten._to_copy.default, aten.to.dtype, aten.clone.default, aten.alias.default, kind="scale")
@elementwise(aten.detach.default, aten.contiguous.default, aten.lift_fresh_copy.default, kind="scale")
def same(op: Op) -> Quotient:
    """1: the same values."""
    return lambda: 1.0


@elementwise(aten.mul.Tensor, aten.mul.Scalar, kind="scale", when=one_active)
def scale(op: Op) -> Quotient:
    """The constant factor."""
    return lambda: op.factor("other" if op.is_active("self") else "self")


@elementwise(aten.div.Tensor, aten.div.Scalar, kind="scale", when=only("self"))
def divide_by(op: Op) -> Quotient:
    """One over the divisor, which is constant or frozen."""

    def quotient() -> Tensor | float:
        return 1 / op.factor("other")

    return quotient


@elementwise(aten.div.Tensor, when=only("other"))
def divide_constant(op: Op) -> Quotient:
    """c / x: no value at 0, total form."""
    return None


@elementwise(FUNCTION)
def function(op: Op) -> Quotient:
    """A region of elementwise ops taken as one function f; `slope` is f'(0), or `None` where f(0) ≠ 0."""
    slope = op.option("slope")
    return None if slope is None else (lambda: safe_quotient(op.output, op.tensor("self"), slope))
