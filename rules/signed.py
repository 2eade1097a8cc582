"""Rules that treat contributions by their sign: z⁺, αβ and γ, each written once for every linear map.

`P = W⁺x⁺ + W⁻x⁻ + b⁺` are the contributions for, `N = W⁻x⁺ + W⁺x⁻ + b⁻` those against; `z = P + N`. There are two ways
to them: *direct*, from W⁺ and W⁻ one by one, and as *half-sums* `½(z ± A)` with `A = |W||x| + |b|`, which take one
extra map instead of three.

Sources: Bach et al., PLOS ONE 10(7), 2015 (αβ); Montavon et al., Pattern Recognition 65, 2017 (z⁺); Montavon et al.,
"Layer-wise relevance propagation: an overview", 2019 (γ).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor

from .linear_map import Constants, LinearMap, Term, Weight, add_up, without_constants
from .op import Op
from .registry import Flow, RuleError, family_rule
from .relevance import Relevance, total, unit

DIRECT_FAN_IN = 32
"""Up to this many products per output the signed rules are computed from W⁺ and W⁻ one by one: the half-sums over W
and |W| cancel in float32 where one sign dominates (measured: 4e-3 of max |R| on depthwise 3×3, 4e-7 from 24 on)."""

SIGNS = (+1, -1)


@family_rule("linear map", "z-plus")
def z_plus(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-6, bias: str = "absorb") -> Flow:
    """z⁺ rule: `R_x = x⁺ ⊙ W⁺ᵀq + x⁻ ⊙ W⁻ᵀq`, `q = R / s(P)`: αβ with α = 1, β = 0."""
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
    """αβ rule (α − β = 1): contributions for and against are normalised apart.

    `R_x = x⁺ ⊙ (W⁺ᵀq₊ − W⁻ᵀq₋) + x⁻ ⊙ (W⁻ᵀq₊ − W⁺ᵀq₋)` with `q₊ = αR / s(P)`, `q₋ = βR / s(N)`. A neuron whose
    contributions have one sign only loses the other part ("empty").

    Where every operand is known to be ≥ 0 the maps of x⁻ vanish and relevance leaves in unit form.
    """
    constants = linear.constants if bias == "absorb" else {}
    parts = split_by_sign(op, linear, constants)
    R = op.total(relevance)
    q: dict[int, Tensor] = {}
    for sign, share in ((+1, alpha), (-1, -beta)):
        if share:
            z = parts.contributions(sign)
            # Contributions of one sign add up to that sign, so the stabiliser's signum is known.
            q[sign] = parts.drop_noise(share * R / (z + sign * epsilon), z)
            _book(op, parts, share * R, z, epsilon)
            for cause, constant in constants.items():
                op.absorb(cause, partial(lambda q, b, sign: q * clamp_sign(b(), sign), q[sign], constant, sign))
    return parts.flow(q)


@family_rule("linear map", "gamma")
def gamma(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
    bias: str = "absorb",
) -> Flow:
    """γ rule, signed: contributions of the output's own sign count 1 + γ times.

    `q₊ = R / s(z + γP)` where z > 0, `q₋ = R / s(z + γN)` where z < 0, nothing where z = 0, and `R_x` is
    `x ⊙ Wᵀ(q₊ + q₋)` plus γ times what z⁺ hands on for q₊ and its mirror image for q₋. With `bias="ignore"` z leaves
    the bias out, but the branch keeps the sign of the true output.
    """
    constants = linear.constants if bias == "absorb" else {}
    parts = split_by_sign(op, linear, constants)
    z = op.output if len(constants) == len(linear.constants) else without_constants(op, linear)
    R = op.total(relevance)
    q: dict[int, Tensor] = {}
    for sign in SIGNS:
        # Where z has the branch's sign, so has z + γ·(contributions of that sign).
        share = R * (op.output * sign > 0).to(R.dtype)
        stressed = z + gamma * parts.contributions(sign)
        stabilised = sign * (stressed.abs() + epsilon)
        q[sign] = share / stabilised
        op.absorb("stabiliser", partial(lambda q, s, z: q * (s - z), q[sign], stabilised, stressed))
        for cause, constant in constants.items():
            op.absorb(cause, partial(_gamma_constant, q[sign], constant, gamma, sign))
    op.absorb("empty", lambda: R * (op.output == 0))
    own, extra = q[+1] + q[-1], parts.flow(q)
    flow = {}
    for term in linear.terms:
        share = term.transpose(own, term.weight())
        more = extra[term.operand]
        if more.form == "unit":
            flow[term.operand] = unit(share + gamma * more.tensor)
        else:
            flow[term.operand] = total(op.tensor(term.operand) * share + gamma * more.tensor)
    return flow


def _gamma_constant(q: Tensor, constant: Callable[[], Tensor], gamma: float, sign: int) -> Tensor:
    b = constant()
    return q * (b + gamma * clamp_sign(b, sign))


def _book(op: Op, parts: Parts, R: Tensor, z: Tensor, epsilon: float) -> None:
    """Absorbed by the contributions of one sign: the stabiliser's share, and parts with nothing in them."""

    def lost() -> Tensor:
        return R * epsilon / (z.abs() + epsilon)

    op.absorb("stabiliser", lambda: parts.drop_noise(lost(), z) * (z != 0))
    op.absorb("empty", lambda: R - parts.drop_noise(R, z) * (z != 0))


def clamp_sign(value: Tensor | float, sign: int) -> Tensor | float:
    """`v⁺` for sign +1, `v⁻` for sign −1."""
    if isinstance(value, Tensor):
        return value.clamp(min=0) if sign > 0 else value.clamp(max=0)
    return max(value, 0.0) if sign > 0 else min(value, 0.0)


class Parts(Protocol):
    """A linear map's contributions, by sign."""

    def contributions(self, sign: int) -> Tensor:
        """P for sign +1, N for −1: shaped like the result, constants of that sign included."""

    def drop_noise(self, share: Tensor, z: Tensor) -> Tensor:
        """`share`, with 0 where the contributions `z` of one sign are nothing but rounding."""

    def flow(self, q: Mapping[int, Tensor]) -> dict[str, Relevance]:
        """By operand, for q by sign: `x⁺ ⊙ (W⁺ᵀq₊ + W⁻ᵀq₋) + x⁻ ⊙ (W⁻ᵀq₊ + W⁺ᵀq₋)`."""


def split_by_sign(op: Op, linear: LinearMap, constants: Constants) -> Parts:
    """The cheaper way to the contributions that is exact enough in the map's dtype.

    Raises:
        RuleError: the map has no weights that could be split.
    """
    for term in linear.terms:
        if not term.splits:
            raise RuleError(f"{op.target} has no weights to split by sign: give it the rule 'epsilon'")
    direct = linear.fan_in <= DIRECT_FAN_IN or all(op.is_nonnegative(term.operand) for term in linear.terms)
    return (Direct if direct else HalfSums)(op, linear, constants)


class Direct:
    """Contributions map by map: for are W⁺x⁺ and W⁻x⁻, against are W⁻x⁺ and W⁺x⁻."""

    def __init__(self, op: Op, linear: LinearMap, constants: Constants) -> None:
        self.op = op
        self.linear = linear
        self.constants = constants
        self.pairs = {term.operand: self._pairs(term) for term in linear.terms}

    def _pairs(self, term: Term) -> dict[int, list[tuple[Tensor, Weight]]]:
        """By sign of the contribution: the (x, W) that make it. Parts that are nothing for certain are left out."""
        x, weight = self.op.tensor(term.operand), term.weight()
        nonnegative = self.op.is_nonnegative(term.operand)
        inputs = {+1: x} if nonnegative else {sign: clamp_sign(x, sign) for sign in SIGNS}
        weights = {+1: None} if weight is None else {sign: clamp_sign(weight, sign) for sign in SIGNS}
        pairs: dict[int, list[tuple[Tensor, Weight]]] = {+1: [], -1: []}
        for input_sign, part in inputs.items():
            for weight_sign, matrix in weights.items():
                pairs[input_sign * weight_sign].append((cast(Tensor, part), matrix))
        return pairs

    def contributions(self, sign: int) -> Tensor:
        """P or N."""
        summands = [term.apply(x, weight) for term in self.linear.terms for x, weight in self.pairs[term.operand][sign]]
        # Implied weights and an input ≥ 0 leave nothing that speaks against.
        summands = summands or [torch.zeros_like(self.op.output)]
        return add_up([*summands, *(clamp_sign(constant(), sign) for constant in self.constants.values())])

    def drop_noise(self, share: Tensor, z: Tensor) -> Tensor:
        """Nothing to drop: an empty part is exactly 0 here, and so is what it passes on."""
        return share

    def flow(self, q: Mapping[int, Tensor]) -> dict[str, Relevance]:
        """Relevance of the operands."""
        flow = {}
        for term in self.linear.terms:
            pairs = self.pairs[term.operand]
            shares = [(x, term.transpose(q[sign], weight)) for sign in q for x, weight in pairs[sign]]
            if self.op.is_nonnegative(term.operand):
                flow[term.operand] = unit(add_up([share for _, share in shares]))
            else:
                flow[term.operand] = total(add_up([x * share for x, share in shares]))
        return flow


class HalfSums:
    """The same from W and |W|: `P = ½(z + A)`, `N = ½(z − A)`."""

    def __init__(self, op: Op, linear: LinearMap, constants: Constants) -> None:
        self.op = op
        self.linear = linear
        self.z = op.output if len(constants) == len(linear.constants) else without_constants(op, linear)
        sizes = [term.apply(op.tensor(term.operand).abs(), self._size(term)) for term in linear.terms]
        self.size = add_up([*sizes, *(constant().abs() for constant in constants.values())])

    @staticmethod
    def _size(term: Term) -> Weight:
        weight = term.weight()
        return None if weight is None else abs(weight)

    def contributions(self, sign: int) -> Tensor:
        """P or N."""
        return 0.5 * (self.z + sign * self.size)

    def drop_noise(self, share: Tensor, z: Tensor) -> Tensor:
        """Where z and A cancel to within 8 roundings of A there is no such part."""
        return share * (z.abs() > 4 * torch.finfo(z.dtype).eps * self.size)

    def flow(self, q: Mapping[int, Tensor]) -> dict[str, Relevance]:
        """Relevance of the operands: `½(x ⊙ Wᵀ(q₊ + q₋) + |x| ⊙ |W|ᵀ(q₊ − q₋))`."""
        both = add_up(list(q.values()))
        sizes = add_up([sign * part for sign, part in q.items()])
        flow = {}
        for term in self.linear.terms:
            x = self.op.tensor(term.operand)
            through = x * term.transpose(both, term.weight()) + x.abs() * term.transpose(sizes, self._size(term))
            flow[term.operand] = total(0.5 * through)
        return flow
