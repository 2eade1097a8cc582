"""Rules that do not look at the input's value, made for the first layer of a network: w², flat and z-box; and pass.

Sources: Montavon et al., "Explaining nonlinear classification decisions with deep Taylor decomposition", Pattern
Recognition 65, 2017 (w², z-box); Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines
really learn", Nature Communications 10, 2019 (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lrp_compiler.torch_private import statically_known_true

from .facts import Fact
from .linear_map import (
    Constant,
    LinearMap,
    Message,
    Part,
    Term,
    Weight,
    add_up,
    hand_on,
    sign_parts,
    split_check,
    support,
)
from .op import Op
from .registry import Flow, RuleError, family_rule
from .relevance import TOTAL_STABILISER, Relevance, sum_to_shape, total

Bound = float | Sequence[float]


@family_rule("linear map", "w-square")
def w_square(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-6, bias: str = "absorb") -> Flow:
    """w² rule: `R_x = (W²)ᵀ(R / s(W²·1 + b²))`, for inputs without bounds.

    With implied weights, equal within an output (sums, means, average pools), W itself stands for W²: the quotient is
    the same.
    """
    return _by_weights(op, linear, relevance, epsilon, linear.kept(bias), lambda weight: weight**2)


@family_rule("linear map", "flat")
def flat(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-6) -> Flow:
    """Flat rule: w² with every weight 1 and no bias. Each output's relevance is spread evenly over what it reads."""
    return _by_weights(op, linear, relevance, epsilon, (), support)


def _by_weights(
    op: Op,
    linear: LinearMap,
    relevance: Relevance,
    epsilon: float,
    constants: Sequence[Constant],
    modify: Callable[[Weight], Weight],
) -> Flow:
    """`R_x = Vᵀ(R / s(V·1 + c))`, V and c being the modified weights and constants."""
    split_check(op, linear)
    weights: dict[Any, Weight] = {part: modify(part.weight()) for part in linear.parts(constants)}

    def z() -> Tensor:
        ones = {term: term.ones(op) for term in linear.terms}
        return add_up([part.apply(ones.get(part), weight) for part, weight in weights.items()])

    q = op.quotient(relevance, epsilon or TOTAL_STABILISER, z)
    inside: dict[Part, Tensor | None] = {term: op.inside(term.operand) for term in linear.terms}

    def sent(part: Part) -> list[Message]:
        ones = inside.get(part)
        return [Message(q, weights[part], 1.0 if ones is None else ones)]

    return hand_on(op, linear, sent, constants)


STEP: Fact[float] = Fact("step", 1.0)
"""Of a map of whole numbers that a quantisation made: how much one of them is worth, in what was quantised."""


@family_rule("linear map", "z-box")
def z_box(
    op: Op, linear: LinearMap, relevance: Relevance, low: Bound = 0.0, high: Bound = 1.0, epsilon: float = 1e-6
) -> Flow:
    """zᴮ rule: `R_x = (x − l) ⊙ W⁺ᵀq + (x − h) ⊙ W⁻ᵀq`, `q = R / s(W⁺(x − l) + W⁻(x − h))`, for l ≤ x ≤ h.

    This is `x ⊙ Wᵀq − l ⊙ W⁺ᵀq − h ⊙ W⁻ᵀq` with one transpose less and, inside the box, no cancellation. The bias plays
    no part in it, and zeros around the input lie between 0 and 0.

    Args:
        op: the operation.
        linear: its map.
        relevance: of the result.
        low: the smallest value of the input: a number, or one for each channel (dim 1 of images, the last dim of
            dense layers).
        high: the largest value, likewise.
        epsilon: the stabiliser; 0 stands for `TOTAL_STABILISER`.

    Raises:
        RuleError: low is not below high, or their number is not that of the channels.
    """
    split_check(op, linear)
    sent: dict[Part, list[tuple[Tensor, Weight]]] = {}
    for term in linear.terms:
        ends, inside = _box(op, term, low, high), op.inside(term.operand)
        if (step := op.fact(STEP)) != 1:
            ends = {side: end / step for side, end in ends.items()}
        if inside is not None:
            ends = {side: end * inside for side, end in ends.items()}
        sides = sign_parts(term.weight()).items()
        sent[term] = [(term.value(op) - ends[side], weight) for side, weight in sides]

    def z() -> Tensor:
        return add_up([term.apply(x, weight) for term, pairs in sent.items() for x, weight in pairs])

    q = op.quotient(relevance, epsilon or TOTAL_STABILISER, z)
    return hand_on(op, linear, lambda term: [Message(q, weight, x) for x, weight in sent[term]])


def _box(op: Op, term: Term, low: Bound, high: Bound) -> dict[int, Tensor | float]:
    """Where W⁺ and W⁻ measure from: low under +1, high under −1, broadcastable to the operand."""
    shape = op.shape(term.operand)
    channels = shape[term.channel] if shape else 1
    ends = [[end] if isinstance(end, (int, float)) else list(end) for end in (low, high)]
    if any(len(end) != 1 and not statically_known_true(len(end) == channels) for end in ends):
        counts = " and ".join(str(len(end)) for end in ends)
        raise RuleError(f"z-box has {counts} bounds (low and high), but {op.target} reads {channels} channels")
    count = max(map(len, ends))
    pairs = list(zip(*(end * (count // len(end)) for end in ends), strict=True))
    if not all(a < b for a, b in pairs):
        raise RuleError(f"z-box needs low < high in every channel, not low={low}, high={high}")
    x = term.value(op)
    view = [1] * (len(shape) - 1 - term.channel % len(shape)) if shape else []
    return {side: _constant(end, x, view) for side, end in zip((+1, -1), ends, strict=True)}


def _constant(values: Sequence[float], like: Tensor, trailing: Sequence[int]) -> Tensor | float:
    if len(set(values)) == 1:
        return float(values[0])
    return torch.cat([torch.full((1,), value, dtype=like.dtype, device=like.device) for value in values]).reshape(
        len(values), *trailing
    )


@family_rule("linear map", "pass")
def pass_through(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-6) -> Flow:
    """`R_x = R` where the map keeps the shape (a batch norm, a scaling); elsewhere R goes on as by the flat rule.

    A scale that is passed by gets what passes through it, and what is added gets nothing; another map's parameters have
    no share that this rule could tell.
    """
    if len(linear.terms) == 1:
        (term,) = linear.terms
        shape = op.shape(term.operand)
        same = len(shape) == len(op.output_shape) and all(
            statically_known_true(a == b) for a, b in zip(shape, op.output_shape, strict=True)
        )
        if same:
            flow: dict[str, Relevance | None] = {term.operand: total(op.total(relevance))}
            if term.scales and term.parameter in op.wanted:
                weight = cast(Tensor, term.weight())
                flow[term.parameter] = total(
                    sum_to_shape(op.total(relevance), weight.shape).reshape(op.shape(term.parameter))
                )
            if term.scales:
                flow.update({name: None for name in op.wanted if name != term.parameter})
            return flow
    return flat(op, linear, relevance, epsilon)
