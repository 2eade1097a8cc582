"""The LRP rules for linear maps `y = Σ W x + b`, each written once for every operator of the family.

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

DIRECT_FAN_IN = 32
"""Up to this many products per output the signed rules are computed from W⁺ and W⁻ one by one: the half-sums over W
and |W| cancel in float32 where one sign dominates (measured: 4e-3 of max |R| on depthwise 3×3, 4e-7 from 24 on)."""


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


def clamp_sign(value: Tensor | float, sign: int) -> Tensor | float:
    """`v⁺` for sign +1, `v⁻` for sign −1."""
    if isinstance(value, Tensor):
        return value.clamp(min=0) if sign > 0 else value.clamp(max=0)
    return max(value, 0.0) if sign > 0 else min(value, 0.0)


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
        q = op.quotient(relevance, epsilon, lambda: _without_constants(op, linear))
    else:
        q = op.quotient(relevance, epsilon)
        for cause, constant in linear.constants.items():
            op.absorb(cause, partial(lambda b: times(*torch.broadcast_tensors(q, b())), constant))
    return {term.operand: unit(term.transpose(q, term.weight())) for term in linear.terms}


@family_rule("linear map", "z-plus")
def z_plus(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-6, bias: str = "absorb") -> Flow:
    """z⁺ rule: `R_x = x⁺ ⊙ W⁺ᵀq + x⁻ ⊙ W⁻ᵀq`, `q = R / s(W⁺x⁺ + W⁻x⁻ + b⁺)`: αβ with α = 1, β = 0."""
    return alpha_beta(op, linear, relevance, alpha=1.0, beta=0.0, epsilon=epsilon, bias=bias)


@family_rule("linear map", "alpha-beta")
def alpha_beta(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    alpha: float = 2.0,
    beta: float = 1.0,
    epsilon: float = 1e-6,
    bias: str = "absorb",
) -> Flow:
    """αβ rule (α − β = 1): excitation and inhibition are normalised apart.

    `R_x = x⁺ ⊙ (W⁺ᵀq_α − W⁻ᵀq_β) + x⁻ ⊙ (W⁻ᵀq_α − W⁺ᵀq_β)` with `q_α = αR / s(W⁺x⁺ + W⁻x⁻ + b⁺)` and
    `q_β = βR / s(W⁻x⁺ + W⁺x⁻ + b⁻)`. A neuron whose contributions have one sign only loses the other part ("empty").

    Where every operand is known to be ≥ 0 the maps of x⁻ vanish and relevance leaves in unit form.
    """
    constants = linear.constants if bias == "absorb" else {}
    nonnegative = all(op.is_nonnegative(term.operand) for term in linear.terms)
    direct = nonnegative or linear.fan_in <= DIRECT_FAN_IN
    parts = (_Direct if direct else _HalfSums)(op, linear, constants)
    R = op.total(relevance)
    q: dict[int, Tensor] = {}
    for sign, share in ((+1, alpha), (-1, -beta)):
        if share:
            z = parts.contributions(sign)
            # Contributions of one sign add up to that sign, so the stabiliser's signum is known.
            q[sign] = parts.drop_noise(share * R / (z + sign * epsilon), z)
            _book(op, share * R, z, epsilon, q[sign], constants, sign)
    return parts.flow(q)


def _book(op: Op, R: Tensor, z: Tensor, epsilon: float, q: Tensor, constants: Constants, sign: int) -> None:
    """Absorbed by the contributions of one sign: the stabiliser's share, empty parts, constants of that sign."""
    lost = R * epsilon / (z.abs() + epsilon)
    op.absorb("stabiliser", lambda: lost * (z != 0))
    op.absorb("empty", lambda: lost * (z == 0))
    for cause, constant in constants.items():
        op.absorb(cause, partial(lambda b: q * clamp_sign(b(), sign), constant))


@family_rule("linear map", "pass")
def pass_through(op: Op, linear: LinearMap, relevance: Relevance) -> Flow:
    """`R_x = R`, for a map that keeps the shape (a batch norm, a scaling)."""
    (operand,) = op.active
    return {operand: total(op.total(relevance).expand(op.shape(operand)))}


@family_rule("linear map", "zero")
def zero(op: Op, linear: LinearMap, relevance: Relevance) -> Flow:
    """Nothing goes on."""
    op.absorb("zero", lambda: op.total(relevance))
    return {}


class _Direct:
    """Contributions of one sign, map by map: a positive one is W⁺x⁺ or W⁻x⁻, a negative one W⁻x⁺ or W⁺x⁻."""

    def __init__(self, op: Op, linear: LinearMap, constants: Constants) -> None:
        self.linear = linear
        self.constants = constants
        self.nonnegative = {term.operand: op.is_nonnegative(term.operand) for term in linear.terms}
        self.pairs = {term.operand: self._pairs(op, term) for term in linear.terms}

    def _pairs(self, op: Op, term: Term) -> dict[int, list[tuple[Tensor, Weight]]]:
        """By sign of the contribution: the (x, W) that make it. Parts that are nothing for certain are left out."""
        _check_splits(op, term)
        x, weight = op.tensor(term.operand), term.weight()
        inputs = {+1: x} if self.nonnegative[term.operand] else {+1: clamp_sign(x, +1), -1: clamp_sign(x, -1)}
        weights = {+1: None} if weight is None else {+1: clamp_sign(weight, +1), -1: clamp_sign(weight, -1)}
        pairs: dict[int, list[tuple[Tensor, Weight]]] = {+1: [], -1: []}
        for input_sign, part in inputs.items():
            for weight_sign, matrix in weights.items():
                pairs[input_sign * weight_sign].append((cast(Tensor, part), matrix))
        return pairs

    def contributions(self, sign: int) -> Tensor:
        """What the contributions of that sign add up to, constants of that sign included; shaped like the result."""
        summands = [term.apply(x, weight) for term in self.linear.terms for x, weight in self.pairs[term.operand][sign]]
        return _sum([*summands, *(clamp_sign(constant(), sign) for constant in self.constants.values())])

    def drop_noise(self, q: Tensor, z: Tensor) -> Tensor:
        """Nothing to drop: an empty part is exactly 0 here, and so is what it passes on."""
        return q

    def flow(self, q: Mapping[int, Tensor]) -> Flow:
        """Relevance of the operands from `q` by sign of the contribution."""
        flow = {}
        for term in self.linear.terms:
            shares = [
                (x, term.transpose(q[sign], weight)) for sign in q for x, weight in self.pairs[term.operand][sign]
            ]
            if self.nonnegative[term.operand]:
                flow[term.operand] = unit(_sum([share for _, share in shares]))
            else:
                flow[term.operand] = total(_sum([x * share for x, share in shares]))
        return flow


class _HalfSums:
    """The same from the two maps W and |W|: with `z = Wx + b` and `A = |W||x| + |b|` they are `½(z ± A)`."""

    def __init__(self, op: Op, linear: LinearMap, constants: Constants) -> None:
        self.op = op
        self.linear = linear
        for term in linear.terms:
            _check_splits(op, term)
        self.z = op.output if len(constants) == len(linear.constants) else _without_constants(op, linear)
        sizes = [term.apply(op.tensor(term.operand).abs(), self._size(term)) for term in linear.terms]
        self.size = _sum([*sizes, *(constant().abs() for constant in constants.values())])

    @staticmethod
    def _size(term: Term) -> Weight:
        weight = term.weight()
        return None if weight is None else abs(weight)

    def contributions(self, sign: int) -> Tensor:
        return 0.5 * (self.z + sign * self.size)

    def drop_noise(self, q: Tensor, z: Tensor) -> Tensor:
        """Where one sign cancels to rounding noise there is no such part: nothing is passed on."""
        return q * (z.abs() > 8 * torch.finfo(z.dtype).eps / 2 * self.size)

    def flow(self, q: Mapping[int, Tensor]) -> Flow:
        both = _sum(list(q.values()))
        sizes = _sum([sign * part for sign, part in q.items()])
        flow = {}
        for term in self.linear.terms:
            x = self.op.tensor(term.operand)
            through = x * term.transpose(both, term.weight()) + x.abs() * term.transpose(sizes, self._size(term))
            flow[term.operand] = total(0.5 * through)
        return flow


def _check_splits(op: Op, term: Term) -> None:
    if not term.splits:
        raise LookupError(f"{op.target} has no weights to split by sign: give it the rule 'epsilon'")


def _without_constants(op: Op, linear: LinearMap) -> Tensor:
    return op.output - _sum([constant() for constant in linear.constants.values()])


def _sum(tensors: Sequence[Tensor | float]) -> Tensor:
    return cast(Tensor, reduce(operator.add, tensors))
