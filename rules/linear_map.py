"""Linear maps `y = Σ W x + b`: what an operator says of itself, and the rules that take W as it is.

An operator (linear, convolution, pooling, addition, …) says how to apply its map and how to apply the transpose, for
any weights. A rule says which inputs, weights and denominators to use. `v⁺ = max(v, 0)`, `v⁻ = min(v, 0)`,
`s(z) = z + ε·sgn z`.

Source: Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
propagation", PLOS ONE 10(7), 2015.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, cast

import torch
from torch import Tensor

from .op import Op
from .registry import Flow, family_rule
from .relevance import Relevance, times, total, unit

Weight = Any
"""A term's weights: a tensor, a plain number, or `None` where they are implied and ≥ 0 (sums, means, pools): then
W = |W| = W⁺."""

Constants = Mapping[str, Callable[[], Tensor]]
"""Cause ("bias", "constant") → what is added that carries no relevance."""


@dataclass(frozen=True)
class Term:
    """One operand's part `W x` of a linear map.

    Args:
        operand: the operand's name.
        apply: (x, W) → W x, broadcastable to the result.
        transpose: (q, W) → Wᵀ q, shaped like x.
        weight: gives W; asked only by rules that need it.
        fan_in: how many products make one output.
        splits: whether W⁺ and |W| can be had (not for a normalisation, whose centring is implied).
    """

    operand: str
    apply: Callable[[Tensor, Weight], Tensor]
    transpose: Callable[[Tensor, Weight], Tensor]
    weight: Callable[[], Weight] = lambda: None
    fan_in: int = 1
    splits: bool = True


@dataclass(frozen=True)
class LinearMap:
    """A linear map: its terms (the active operands) and what is added that carries no relevance.

    Args:
        terms: one for each active operand.
        constants: cause ("bias", "constant") → the tensor added, broadcastable to the result.
    """

    terms: tuple[Term, ...]
    constants: Constants = field(default_factory=dict)

    @property
    def fan_in(self) -> int:
        """How many products make one output."""
        return max(term.fan_in for term in self.terms)


@family_rule("linear map", "epsilon")
def epsilon(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-6, bias: str = "absorb") -> Flow:
    """ε rule: `R_x = x ⊙ Wᵀ(R / s(z))`; in unit form and in the limit ε → 0 just `g_x = Wᵀ g`.

    Args:
        op: the operation.
        linear: its map.
        relevance: of the result.
        epsilon: the stabiliser; 0 for the limit.
        bias: "absorb" (z is the true output) or "ignore" (z without bias and constants).
    """
    if bias == "ignore" and linear.constants:
        q = op.quotient(relevance, epsilon, lambda: without_constants(op, linear))
    else:
        q = op.quotient(relevance, epsilon)
        for cause, constant in linear.constants.items():
            op.absorb(cause, partial(lambda b: times(*torch.broadcast_tensors(q, b())), constant))
    return {term.operand: unit(term.transpose(q, term.weight())) for term in linear.terms}


@family_rule("linear map", "pass")
def pass_through(op: Op, linear: LinearMap, relevance: Relevance) -> Flow:
    """`R_x = R`, for a map that keeps the shape (a batch norm, a scaling)."""
    (operand,) = op.active
    return {operand: total(op.total(relevance).expand(op.shape(operand)))}


@family_rule("linear map", "zero")
def zero(op: Op, linear: LinearMap, relevance: Relevance) -> Flow:
    """Nothing goes on."""
    op.absorb("zero", lambda: op.total(relevance))
    return dict.fromkeys(op.active)


def without_constants(op: Op, linear: LinearMap) -> Tensor:
    """The result less its constants: `W x`."""
    return op.output - add_up([constant() for constant in linear.constants.values()])


def add_up(tensors: Sequence[Tensor | float]) -> Tensor:
    """Sum of at least one tensor, without the 0 that Python's own sum starts from."""
    return cast(Tensor, reduce(operator.add, tensors))
