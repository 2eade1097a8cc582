"""Activations and other functions of one operand, element by element: what each one's quotient f(x)/x is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import one_active, only, predicate
from lrp_compiler.rules.elementwise import Quotient, elementwise, safe_quotient
from lrp_compiler.rules.facts import Fact
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import FUNCTION, Overload
from lrp_compiler.rules.traits import Arguments, Call, Summand, always, always_nonnegative, declare, keeps_sign
from lrp_compiler.torch_private import statically_known_true

aten = torch.ops.aten

SLOPE: Fact[float | None] = Fact("slope", None)
"""Of a region of elementwise ops that is one function f: f'(0), or `None` where f(0) ≠ 0."""


@elementwise(aten.relu.default, sign=always_nonnegative, rectifies=lambda given: True)
def relu(op: Op) -> Quotient:
    """1 where x > 0; the result is ≥ 0, so its signum says it."""
    return lambda: op.output.sign()


def bounds(given: Arguments) -> tuple[Any, Any]:
    """The ends of a clamp's range; `None`: it has no such end."""
    low = given.get("min_val", given.get("min"))
    return low, given.get("max_val", given.get("max"))


def _range_spans_zero(op: Op) -> bool:
    # relu6 names no bounds: 0 and 6. Of a bound that varies with the sizes it may not be known.
    low, high = bounds({name: op.option(name) for name in op.arguments if name.startswith(("min", "max"))})
    return (low is None or statically_known_true(low <= 0)) and (high is None or statically_known_true(high >= 0))


spans_zero = predicate(_range_spans_zero)
"""A clamp's range holds 0."""

BOUNDED_BELOW = (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)
CLAMPS = (*BOUNDED_BELOW, aten.clamp_max.default)
"""Those that take their bounds as numbers."""


def _bounded_below(call: Call) -> bool:
    low, high = bounds(call.arguments)
    sound = isinstance(low, (int, float)) and low >= 0
    return sound and (high is None or (isinstance(high, (int, float)) and high >= 0))


declare(*CLAMPS, aten.relu6.default, clamps=True)
declare(*BOUNDED_BELOW, sign=_bounded_below, rectifies=lambda given: bounds(given)[0] == 0)
declare(aten.relu6.default, sign=always_nonnegative, rectifies=lambda given: True)
declare(aten.clamp.default, aten.clamp_min.default, arithmetic=True)


@elementwise(*CLAMPS, aten.relu6.default, when=spans_zero)
def clamp(op: Op) -> Quotient:
    """Clamps with min ≤ 0 ≤ max are activations: relevance is not lost on the plateau."""
    return lambda: safe_quotient(op.output, op.tensor("self"), 1.0)


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


SLOPE_AT_ZERO: dict[Overload, float] = {
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
    aten.round.default: 0.0,
    aten.round.decimals: 0.0,
    aten.trunc.default: 0.0,
}
"""f'(0) of functions with f(0) = 0. Roundings among them: the identity rule goes by values, not by slopes."""


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
    aten.floor.default,
    aten.ceil.default,
    aten.sign.default,
)
"""Functions with f(0) ≠ 0, or with an infinite slope or a jump there."""


@elementwise(*WITHOUT_ZERO)
@elementwise(
    aten.pow.Tensor_Tensor,
    aten.atan2.default,
    aten.fmod.Tensor,
    aten.remainder.Tensor,
    aten.remainder.Scalar_Tensor,
    aten.div.Tensor_mode,
    aten.div.Scalar_mode,
    when=one_active,
)
def without_zero(op: Op) -> Quotient:
    """No finite quotient at 0: total form."""
    return None


declare(
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
    aten.exp.default,
    aten.exp2.default,
    aten.cosh.default,
    aten.erfc.default,
    aten.abs.default,
    aten.square.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    sign=always_nonnegative,
)
declare(aten.pow.Tensor_Tensor, sign=keeps_sign())


def _negative(call: Call) -> bool:
    return not call.known(call.arguments["self"])


def _no_whole_power(call: Call) -> bool:
    exponent = call.arguments["exponent"]
    return not (isinstance(exponent, (int, float)) and exponent >= 0 and exponent == int(exponent))


def _by_what_varies(call: Call) -> bool:
    divisor = call.arguments["other"]
    return not (isinstance(divisor, (int, float)) or divisor.op == "get_attr")


declare(
    aten.tan.default,
    aten.asin.default,
    aten.acos.default,
    aten.sinh.default,
    aten.cosh.default,
    aten.acosh.default,
    aten.atanh.default,
    aten.erfinv.default,
    aten.exp.default,
    aten.exp2.default,
    aten.expm1.default,
    aten.log.default,
    aten.log2.default,
    aten.log10.default,
    aten.log1p.default,
    aten.lgamma.default,
    aten.digamma.default,
    aten.i0.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.pow.Scalar,
    aten.pow.Tensor_Tensor,
    undefined=always,
)
declare(aten.sqrt.default, undefined=_negative)
declare(aten.pow.Tensor_Scalar, undefined=_no_whole_power)
declare(
    aten.div.Tensor,
    aten.div.Tensor_mode,
    aten.fmod.Tensor,
    aten.remainder.Tensor,
    aten.remainder.Scalar_Tensor,
    undefined=_by_what_varies,
)
declare(aten.sigmoid.default, aten.log_sigmoid.default, squashes=True)
declare(aten.log.default, aten.log_sigmoid.default, logarithms=1)
declare(aten.exp.default, logarithms=-1)
declare(aten.sqrt.default, aten.rsqrt.default, roots=True)
declare(aten.rsqrt.default, aten.reciprocal.default, inverts=True)
declare(
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.abs.default,
    aten.square.default,
    aten.pow.Tensor_Scalar,
    arithmetic=True,
)


@elementwise(aten.abs.default)
def absolute(op: Op) -> Quotient:
    """sgn x."""
    return lambda: op.tensor("self").sign()


def _even_power(call: Call) -> bool:
    exponent = call.arguments["exponent"]
    return isinstance(exponent, (int, float)) and (exponent % 2 == 0 or call.known(call.arguments["self"]))


@elementwise(aten.pow.Tensor_Scalar, sign=_even_power)
def power(op: Op) -> Quotient:
    """x^(n−1) for n ≥ 1; below that total form."""
    exponent = op.option("exponent")
    if not statically_known_true(exponent >= 1):
        return None
    return lambda: op.tensor("self") if statically_known_true(exponent == 2) else op.tensor("self") ** (exponent - 1)


@elementwise(aten.neg.default, kind="scale", sums={"self": Summand(-1)})
def negate(op: Op) -> Quotient:
    """−1."""
    return lambda: -1.0


@elementwise(aten._to_copy.default, aten.to.dtype, kind="scale", casts=True, free=True, may_do_nothing=always)
@elementwise(aten.alias.default, aten.detach.default, kind="scale", copies=True, free=True)
@elementwise(aten.clone.default, aten.contiguous.default, aten.lift_fresh_copy.default, kind="scale", copies=True)
def same(op: Op) -> Quotient:
    """1: the same values."""
    return lambda: 1.0


declare(aten._to_copy.default, aten.to.dtype, arithmetic=True)


@elementwise(aten.mul.Tensor, kind="scale", when=one_active, sign=keeps_sign("self", "other"), neutral=1)
@elementwise(aten.mul.Scalar, kind="scale", when=one_active, neutral=1)
def scale(op: Op) -> Quotient:
    """The constant factor."""
    return lambda: op.factor("other" if op.is_active("self") else "self")


@elementwise(aten.div.Tensor, kind="scale", when=only("self"), sign=keeps_sign("self", "other"), neutral=1)
@elementwise(aten.div.Scalar, kind="scale", when=only("self"), sign=keeps_sign("self", "other"))
def divide_by(op: Op) -> Quotient:
    """One over the divisor, which is constant or frozen."""

    def quotient() -> Tensor | float:
        return 1 / op.factor("other")

    return quotient


declare(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, arithmetic=True)
declare(aten.mul.Tensor, aten.div.Tensor, pairs=True)
declare(aten.mul.Tensor, aten.mul.Scalar, powers={"self": 1, "other": 1})
declare(aten.div.Tensor, aten.div.Scalar, powers={"self": 1, "other": -1})


@elementwise(aten.div.Tensor, when=only("other"))
def divide_constant(op: Op) -> Quotient:
    """c / x: no value at 0, total form."""
    return None


@elementwise(FUNCTION)
def function(op: Op) -> Quotient:
    """A region of elementwise ops taken as one function f (see `fuse_functions`)."""
    slope = op.fact(SLOPE)
    return None if slope is None else (lambda: safe_quotient(op.output, op.tensor("self"), slope))
