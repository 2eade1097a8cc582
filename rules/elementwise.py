"""Elementwise functions of one activation: the identity rule, `R_x = R`.

An operator of this family gives the quotient `f(x)/x` that the unit form is multiplied by, or `None` where f(0) ≠ 0:
then no finite quotient exists near 0 and relevance goes on in total form. Where a closed form of the quotient is
known (`gelu(x)/x = Φ(x)`) it is used: no division, and f'(0) at x = 0 comes by itself.

Source: Achtibat et al., "AttnLRP", arXiv 2402.05602 (identity rule); products with a constant give all to the
activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from torch import Tensor

from .conditions import Condition, always
from .op import Op
from .registry import Describe, Flow, Overload, Register, family_rule, operator
from .relevance import Relevance, has_shape, sum_to_shape, total, unit
from .traits import Given

Quotient = Callable[[], Tensor | float] | None


@family_rule("elementwise", "identity", hands_on=True)
def identity(op: Op, quotient: Quotient, relevance: Relevance) -> Flow:
    """`R_x = R`; in unit form `g_x = g ⊙ f(x)/x`."""
    (operand,) = op.active
    shape, dtype = op.shape(operand), op.dtype(operand)
    if relevance.form == "unit" and quotient is not None:
        factor = quotient()
        g = relevance.tensor if not isinstance(factor, Tensor) and factor == 1 else relevance.tensor * factor
        carried = unit(g, relevance.as_total or (lambda: op.total(relevance)))
    else:
        carried = total(op.total(relevance))
    share = carried
    # Pixels (uint8) that are cast to float keep their relevance in float.
    kept = dtype == carried.tensor.dtype or not dtype.is_floating_point
    if not (kept and has_shape(carried.tensor, shape)):
        share = carried.map(lambda r: sum_to_shape(r if kept else r.to(dtype), shape))
    # A constant factor's own relevance is all that goes through it.
    return {operand: share, **{name: total(sum_to_shape(op.total(relevance), op.shape(name))) for name in op.wanted}}


@family_rule("elementwise", "zero", hands_on=True, of_differences=True)
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


def elementwise(
    *targets: Overload | str, kind: str = "activation", when: Condition = always, **known: Unpack[Given]
) -> Register[Describe]:
    """Register the quotient of elementwise ops."""
    return operator(*targets, kind=kind, family="elementwise", rule="identity", when=when, **known)
