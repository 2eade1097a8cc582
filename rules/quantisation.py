"""Quantisation, to whole steps of a size and perhaps back again: `f(x) = scale · x` but for rounding, between its ends.

An operator of this family says by what it scales and what a step is worth. By value (`identity`) it is one elementwise
function; `straight-through` holds that rounding adds a constant.

Source: Bengio et al., "Estimating or propagating gradients through stochastic neurons for conditional computation",
arXiv 1308.3432 (the straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .elementwise import identity, safe_quotient, zero
from .op import Op
from .registry import Flow, family_rule
from .relevance import Relevance, unit

HALF = 0.51
"""Of a step: what rounding changes at most, and what single precision makes of that. What is changed by more lies
beyond the ends."""


@dataclass(frozen=True)
class Quantisation:
    """What a quantisation is but for rounding; asked by the rule that wants to know alone.

    Args:
        scale: gives what x is multiplied by from end to end.
        worth: gives what one step is worth in the result.
    """

    scale: Callable[[], Tensor | float]
    worth: Callable[[], Tensor | float]


@family_rule("quantisation", "identity")
def by_value(op: Op, quantisation: Quantisation, relevance: Relevance) -> Flow:
    """`R_x = R`; in unit form `g_x = g ⊙ f(x)/x`."""
    return identity(op, lambda: safe_quotient(op.output, op.tensor("self"), 0.0), relevance)


@family_rule("quantisation", "straight-through")
def straight_through(op: Op, quantisation: Quantisation, relevance: Relevance) -> Flow:
    """`g_x = g ⊙ q`: q is what a quantisation scales by, beyond its ends f(x)/x; `g ⊙ (f(x) − q x)` is absorbed.

    f(x)/x of a rounding is 0, or up to twice too large, for an x that is small beside a step; where x is a sum of large
    values that cancel, all of them would be handed that. Relevance in total form stays what it is.
    """
    if relevance.form == "total":
        return by_value(op, quantisation, relevance)
    x, y, g = op.tensor("self"), op.output, relevance.tensor
    scale = quantisation.scale()
    rounded, worth = (y - x * scale).abs(), quantisation.worth()
    inside: Tensor = (rounded <= HALF * (worth.abs() if isinstance(worth, Tensor) else abs(worth))).to(x.dtype)
    factor: Tensor = inside * scale + (1 - inside) * safe_quotient(y, x, 0.0)
    op.absorb("quantisation", lambda: g * (y - factor * x))
    return {"self": unit((g * factor).to(x.dtype))}


family_rule("quantisation", "zero", of_differences=True)(zero)
