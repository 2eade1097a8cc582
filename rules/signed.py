"""Rules that treat contributions by their sign: z⁺, αβ and γ, each written once for every linear map.

`P = W⁺x⁺ + W⁻x⁻ + b⁺` are the contributions for, `N = W⁻x⁺ + W⁺x⁻ + b⁻` those against; `z = P + N`. How they are
come by is the business of `contributions`.

Sources: Bach et al., PLOS ONE 10(7), 2015 (αβ); Montavon et al., Pattern Recognition 65, 2017 (z⁺); Montavon et al.,
"Layer-wise relevance propagation: an overview", 2019 (γ).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .contributions import SIGNS, Direct, HalfSums
from .facts import Fact
from .linear_map import Constant, LinearMap, Message, Part, Weight, add_up, hand_on, sign_parts, split_check
from .op import Op
from .registry import Flow, RuleError, family_rule
from .relevance import TOTAL_STABILISER, Relevance, divide, sign, signum, total

DIRECT_FAN_IN = 64
"""Up to this many products per output z⁺ and αβ take the direct form: the half-sums over W and |W| cancel in float32
where one sign dominates (measured: 3e-3 of max |R| on depthwise 3×3, 1e-4 on an RGB stem, 6e-7 from 64 on)."""

FORMS = ("auto", "direct", "half-sums")

ONLY_POSITIVE: Fact[bool] = Fact("only_positive", False)
"""No relevance arrives where the result is ≤ 0: every consumer is a ReLU that hands back relevance proportional to its
value."""


@family_rule("linear map", "z-plus", multiplies=True)
def z_plus(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    epsilon: float = 1e-6,
    bias: str = "absorb",
    form: str = "auto",
) -> Flow:
    """z⁺ rule: `R_x = x⁺ ⊙ W⁺ᵀq + x⁻ ⊙ W⁻ᵀq`, `q = R / s(P)`: αβ with α = 1, β = 0."""
    return alpha_beta(op, linear, relevance, alpha=1.0, beta=0.0, epsilon=epsilon, bias=bias, form=form)


@family_rule("linear map", "alpha-beta", multiplies=True)
def alpha_beta(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    alpha: float = 2.0,
    beta: float = 1.0,
    epsilon: float = 1e-6,
    bias: str = "absorb",
    form: str = "auto",
) -> Flow:
    """αβ rule (α − β = 1): contributions for and against are normalised apart.

    `R_x = x⁺ ⊙ (W⁺ᵀq₊ − W⁻ᵀq₋) + x⁻ ⊙ (W⁻ᵀq₊ − W⁺ᵀq₋)` with `q₊ = αR / s(P)`, `q₋ = βR / s(N)`. A neuron whose
    contributions have one sign only loses the other part ("empty"). An operand known to be ≥ 0 has no x⁻, and its
    relevance leaves in unit form.

    Args:
        op: the operation.
        linear: its map.
        relevance: of the result.
        alpha: weight of the contributions for.
        beta: weight of those against.
        epsilon: the stabiliser; 0 stands for `TOTAL_STABILISER`, since a quotient cannot be avoided.
        bias: "absorb", or "ignore" (P and N without the bias).
        form: "direct", "half-sums", or "auto": the cheaper one that is exact enough in float32.

    Raises:
        RuleError: α − β is not 1 (relevance would grow or shrink at every layer), or one of them is negative.
    """
    if abs(alpha - beta - 1) > 1e-6 or min(alpha, beta) < 0:
        raise RuleError(
            "The αβ rule keeps the sum of relevance only where alpha − beta = 1 and neither is negative, and was given "
            f"alpha={alpha}, beta={beta}"
        )
    split_check(op, linear)
    constants = linear.kept(bias)
    narrow = linear.fan_in <= DIRECT_FAN_IN or _nonnegative(op, linear)
    parts = _form(form, "direct" if narrow else "half-sums")(op, linear, constants)
    R = op.total(relevance)
    stabiliser = parts.multiple * (epsilon or TOTAL_STABILISER)
    q: dict[int, Tensor] = {}
    for side, factor in ((+1, alpha), (-1, -beta)):
        if not factor:
            continue
        share = R if factor == 1 else factor * R
        z = parts.contributions(side)
        if z is None:
            op.absorb("empty", partial(torch.clone, share))
            continue
        z = z if isinstance(z, Tensor) else torch.full((), z, dtype=R.dtype, device=R.device)
        # Contributions of one sign add up to that sign, so the stabiliser's signum is known.
        q[side] = parts.drop_noise(share / (z + side * stabiliser), z, side)
        op.absorb("stabiliser", partial(_lost, parts, share, z, side, stabiliser))
        op.absorb("empty", partial(_empty, parts, share, z, side))
    return hand_on(op, linear, lambda part: parts.messages(part, q), constants)


def _lost(parts: Direct | HalfSums, R: Tensor, z: Tensor, side: int, epsilon: float) -> Tensor:
    return parts.drop_noise(R * epsilon / (z.abs() + epsilon), z, side) * (z != 0)


def _empty(parts: Direct | HalfSums, R: Tensor, z: Tensor, side: int) -> Tensor:
    return R - parts.drop_noise(R, z, side) * (z != 0)


@family_rule("linear map", "gamma", multiplies=True)
def gamma(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
    bias: str = "absorb",
    form: str = "auto",
) -> Flow:
    """γ rule, signed: contributions of the output's own sign count 1 + γ times.

    `q₊ = R / s(z + γP)` where z > 0, `q₋ = R / s(z + γN)` where z < 0, nothing where z = 0, and `R_x` is
    `x⁺ ⊙ (W₊ᵀq₊ + W₋ᵀq₋) + x⁻ ⊙ (W₋ᵀq₊ + W₊ᵀq₋)` with `W₊ = W + γW⁺`, `W₋ = W + γW⁻`. With `bias="ignore"` z leaves
    the bias out, but the branch keeps the sign of the true output. Where no relevance arrives at z ≤ 0 only the branch
    z > 0 is there; for x ≥ 0 that is one map and one transpose.

    Args:
        op: the operation.
        linear: its map.
        relevance: of the result.
        gamma: γ.
        epsilon: the stabiliser; 0 stands for `TOTAL_STABILISER`.
        bias: "absorb" or "ignore".
        form: "direct" or "half-sums"; "auto" takes the half-sums, whose parts have one sign here and do not cancel.
    """
    constants = linear.kept(bias)
    positive_only = op.fact(ONLY_POSITIVE)
    if positive_only and form == "auto" and _nonnegative(op, linear):
        # What γ adds is ≥ 0: with z, where relevance arrives, so is the denominator.
        known = len(constants) == len(linear.constants)
        return _one_sided(op, linear, relevance, gamma, epsilon, bias, nonnegative=known)
    split_check(op, linear)
    branch = _gamma_direct if _form(form, "half-sums") is Direct else _gamma_half_sums
    return branch(op, linear, relevance, gamma, epsilon or TOTAL_STABILISER, constants, positive_only)


def _gamma_half_sums(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    gamma: float,
    epsilon: float,
    constants: Sequence[Constant],
    positive_only: bool,
) -> Flow:
    """`q = R / s(z + γ/2 (z + σA))`, `R_x = x ⊙ Wᵀ((1 + γ/2) q) + |x| ⊙ |W|ᵀ(γ/2 σ q)` with σ = sgn z, 0 for z = 0."""
    # Divided through by 1 + γ/2, so that the map through W takes q as it is.
    parts = HalfSums(op, linear, constants, scale=0.5 * gamma / (1 + 0.5 * gamma))
    stabiliser = epsilon / (1 + 0.5 * gamma)
    if positive_only:
        z = parts.z + parts.size
        q = q_size = divide(op.total(relevance), z, stabiliser)
        op.absorb("stabiliser", lambda: q * (stabiliser * sign(z)))
    elif relevance.form == "unit" and len(constants) == len(linear.constants):
        # R is g ⊙ z: the sign of z, which the denominator has as well, is in it.
        size = parts.z.abs()
        share = relevance.tensor / (size + parts.size + stabiliser)
        q, q_size = share * size, share * parts.z
        op.absorb("stabiliser", lambda: q_size * stabiliser)
    else:
        R, sigma = op.total(relevance), signum(op.output)
        op.absorb("empty", lambda: R * (1 - sigma * sigma))
        if len(constants) == len(linear.constants):
            side, size = sigma, parts.z.abs() + parts.size
        else:
            z = parts.z + parts.size * sigma
            side, size = sign(z) * sigma.abs(), z.abs()
        q = R * side / (size + stabiliser)
        q_size = q * sigma
        op.absorb("stabiliser", lambda: q * (stabiliser * side))
    return hand_on(op, linear, lambda part: parts.pair(part, q, q_size), constants)


def _gamma_direct(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    gamma: float,
    epsilon: float,
    constants: Sequence[Constant],
    positive_only: bool,
) -> Flow:
    R = op.total(relevance)
    parts = Direct(op, linear, constants, partial(stressed, gamma=gamma))
    q: dict[int, Tensor] = {}
    for side in (+1,) if positive_only else SIGNS:
        share = R if positive_only else R * (op.output * side > 0).to(R.dtype)
        q[side] = op.quotient(total(share), epsilon, partial(add_up, parts.summands(side)))
    if not positive_only:
        op.absorb("empty", lambda: R * (op.output == 0))
    return hand_on(op, linear, lambda part: parts.messages(part, q), constants)


@family_rule("linear map", "gamma-one-sided", multiplies=True)
def gamma_one_sided(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    gamma: float = 0.25,
    epsilon: float = 1e-6,
    bias: str = "absorb",
) -> Flow:
    """γ rule as first published: `R_x = x ⊙ W₊ᵀ(R / s(W₊x + b₊))` with `W₊ = W + γW⁺`, `b₊ = b + γb⁺`.

    Made for x ≥ 0 and z ≥ 0, as between ReLUs; defined everywhere.

    Args:
        op: the operation.
        linear: its map.
        relevance: of the result.
        gamma: γ.
        epsilon: the stabiliser; 0 stands for `TOTAL_STABILISER`.
        bias: "absorb" or "ignore".
    """
    return _one_sided(op, linear, relevance, gamma, epsilon, bias, nonnegative=False)


def _one_sided(
    op: Op, linear: LinearMap, relevance: Relevance, gamma: float, epsilon: float, bias: str, *, nonnegative: bool
) -> Flow:
    """`nonnegative`: `W₊x + b₊` is ≥ 0 wherever relevance arrives, so its sign need not be looked at."""
    split_check(op, linear)
    constants = linear.kept(bias)
    epsilon = epsilon or TOTAL_STABILISER

    def z() -> Tensor:
        return add_up([part.apply(part.value(op), strong(part)) for part in linear.parts(constants)])

    def strong(part: Part) -> Weight:
        return stressed(part.weight(), gamma)[+1]

    if nonnegative:
        value = z()
        size = value.relu()
        q = op.total(relevance) / (size + epsilon)
        op.absorb("stabiliser", lambda: q * (size - value + epsilon))
    else:
        q = op.quotient(relevance, epsilon, z)
    return hand_on(op, linear, lambda part: [Message(q, strong(part))], constants)


def stressed(weight: Weight, gamma: float) -> dict[int, Weight]:
    """`W + γW⁺` under +1, `W + γW⁻` under −1."""
    parts = sign_parts(weight)
    return {side: weight + gamma * parts[side] if side in parts else weight for side in SIGNS}


def _nonnegative(op: Op, linear: LinearMap) -> bool:
    return all(term.is_nonnegative(op) for term in linear.terms)


def _form(form: str, auto: str) -> type[Direct] | type[HalfSums]:
    if form not in FORMS:
        raise RuleError(f"Option form is one of {', '.join(FORMS)}, not {form!r}")
    return Direct if (auto if form == "auto" else form) == "direct" else HalfSums
