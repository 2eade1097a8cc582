"""Linear maps `y = Σ W x + b`: what an operator says of itself, and the rules that take W as it is.

An operator (linear, convolution, pooling, addition, …) says how to apply its map and how to apply the transpose, for
any weights. A rule says which inputs, weights and denominators to use: it sends *messages* `x ⊙ Wᵀ q`, each from a part
of the input through a part of the weights. `hand_on` adds them up, over the weights for the operand and over the
positions for the weights themselves. A bias is a term whose input is 1. `v⁺ = max(v, 0)`, `v⁻ = min(v, 0)`,
`s(z) = z + ε·sgn z`.

Source: Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
propagation", PLOS ONE 10(7), 2015.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce, singledispatch
from typing import Any, cast

import torch
from torch import Tensor

from lrp_compiler.torch_private import known_size

from .op import Op
from .registry import Flow, RuleError, family_rule
from .relevance import Relevance, sum_to_shape, times, total, unit

UNKNOWN_FAN_IN = 1 << 20
"""Taken for a fan-in that is only known at run time."""

Weight = Any
"""A term's weights: a tensor, or a plain number where they are implied and ≥ 0 (sums, means, pools): that many times
them. Anything else brings its own `+`, `*`, `** 2`, `abs`, `sign_parts` and `support` (see `interpolation`)."""


@dataclass(frozen=True)
class Term:
    """One operand's part `W x` of a linear map.

    Args:
        operand: the operand's name.
        apply: (x, W) → W x, broadcastable to the result.
        transpose: (q, W) → Wᵀ q, shaped like x.
        weight: gives W; asked only by rules that need it.
        parameter: name of the operand that the weights are, if they are one.
        weigh: (q, x) → Σ q xᵀ over all positions, shaped like W: the transpose of the map with respect to W.
        fan_in: how many products make one output at least; 1 where the weights are implied, and nothing is gained by
            putting their signs together.
        channel: the operand's channel dim, for bounds given by channel.
        splits: whether W⁺ and |W| can be had (not for a normalisation, whose centring is implied).
        between: of weights that follow from x, (W, W₀) → those by which the difference of two results follows from that
            of x; `None`: they do not.
        scales: whether the result has the operand's shape, and the weights multiply what of it they broadcast over.
    """

    operand: str
    apply: Callable[[Tensor, Weight], Tensor]
    transpose: Callable[[Tensor, Weight], Tensor]
    weight: Callable[[], Weight] = lambda: 1.0
    parameter: str | None = None
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None
    fan_in: int | torch.SymInt = 1
    channel: int = -1
    splits: bool = True
    scales: bool = False
    between: Callable[[Weight, Weight], Weight] | None = None

    def value(self, op: Op) -> Tensor:
        """x."""
        return op.tensor(self.operand)

    def ones(self, op: Op) -> Tensor:
        """1 for every element of x, 0 for zeros that were put around it."""
        # Not `new_ones`: of several targets' relevance that would be as many tensors of ones.
        inside, shape = op.inside(self.operand), op.shape(self.operand)
        if inside is not None:
            return inside.expand(shape)
        return torch.ones(shape, dtype=op.dtype(self.operand), device=op.device(self.operand))

    def is_nonnegative(self, op: Op) -> bool:
        """Whether x is known to be ≥ 0."""
        return op.is_nonnegative(self.operand)


@dataclass(frozen=True)
class Constant:
    """What is added and passes no relevance on: a term whose input is 1 and whose weights are `weight`.

    Args:
        cause: what its share is booked under ("bias", "constant").
        weight: gives the tensor (broadcastable to the result) or number that is added.
        operand: name of the operand that it is, if it is one.
        number: whether it is a plain number, of which a size may be given as a tensor.
    """

    cause: str
    weight: Callable[[], Weight]
    operand: str | None = None
    number: bool = False

    def apply(self, x: object, weight: Weight) -> Weight:
        """W · 1."""
        return weight

    def value(self, op: Op) -> Any:
        """1."""
        return 1.0

    def is_nonnegative(self, op: Op) -> bool:
        """1 is."""
        return True


Part = Term | Constant
"""What a map is the sum of."""


@dataclass(frozen=True)
class LinearMap:
    """A linear map: its terms (the active operands) and what is added besides.

    Args:
        terms: one for each active operand.
        constants: what is added that carries no relevance.
    """

    terms: tuple[Term, ...]
    constants: tuple[Constant, ...] = ()

    @property
    def fan_in(self) -> int:
        """How many products make one output at least."""
        return max(UNKNOWN_FAN_IN if (known := known_size(term.fan_in)) is None else known for term in self.terms)

    def parts(self, constants: Sequence[Constant]) -> list[Part]:
        """The terms, and the constants that a rule reckons with."""
        return [*self.terms, *constants]

    def kept(self, bias: str) -> tuple[Constant, ...]:
        """The constants that a rule reckons with.

        Raises:
            RuleError: `bias` is neither "absorb" nor "ignore".
        """
        if bias not in ("absorb", "ignore"):
            raise RuleError(f"Option bias is 'absorb' or 'ignore', not {bias!r}")
        return self.constants if bias == "absorb" else ()


@dataclass(frozen=True)
class Message:
    """`x ⊙ Wᵀ q`, from a part of the input through a part of the weights.

    Args:
        q: shaped like the result.
        weight: the part of the weights.
        x: the part of the input, 1 for a rule that does not look at it; `None` for all of the input.
        ratio: what the input is multiplied by to be that part, where it is known.
    """

    q: Tensor
    weight: Weight
    x: Tensor | float | None = None
    ratio: Tensor | float | None = None


Messages = Callable[[Part], Sequence[Message]]
"""What a rule sends back to a term, or books for a constant."""


def hand_on(op: Op, linear: LinearMap, messages: Messages, constants: Sequence[Constant] = ()) -> Flow:
    """The messages added up: relevance of the operands, of the weights where it is wanted, and the constants' share.

    An operand's relevance is in unit form where every message is of the whole input, or of a known multiple of it.
    """
    flow: dict[str, Relevance | None] = {}
    for term in linear.terms:
        sent = messages(term)
        flow[term.operand] = _received(op, term, sent)
        if term.parameter is not None and term.parameter in op.wanted:
            flow[term.parameter] = _weighed(op, term, sent)
    flow.update({constant.operand: None for constant in linear.constants if constant.operand in op.wanted})
    for constant in constants:
        share = partial(_booked, messages, constant)
        op.absorb(constant.cause, share)
        if constant.operand in op.wanted:
            summed = sum_to_shape(share(), constant.weight().shape)
            flow[constant.operand] = total(summed.reshape(op.shape(constant.operand)))
    return cast(Flow, flow)


def _received(op: Op, term: Term, messages: Sequence[Message]) -> Relevance | None:
    if not messages:
        return None
    shares = [term.transpose(message.q, message.weight) for message in messages]
    if all(message.x is None for message in messages):
        return unit(add_up(shares))

    def as_total() -> Tensor:
        inputs = [term.value(op) if message.x is None else message.x for message in messages]
        return add_up([scaled(share, x) for share, x in zip(shares, inputs, strict=True)])

    ratios = [1.0 if message.x is None else message.ratio for message in messages]
    known = [ratio for ratio in ratios if ratio is not None]
    if len(known) < len(ratios):
        return total(as_total())
    return unit(add_up([scaled(share, ratio) for share, ratio in zip(shares, known, strict=True)]), as_total)


def _weighed(op: Op, term: Term, messages: Sequence[Message]) -> Relevance | None:
    assert term.parameter is not None
    assert term.weigh is not None
    shares = []
    for message in messages:
        x = term.value(op) if message.x is None else message.x
        x = x if isinstance(x, Tensor) else x * term.ones(op)
        shares.append(message.weight * term.weigh(message.q, x))
    return total(add_up(shares).reshape(op.shape(term.parameter))) if shares else None


def _booked(messages: Messages, constant: Constant) -> Tensor:
    shares = [times(message.q, message.weight) for message in messages(constant)]
    return add_up(shares) if shares else torch.zeros(())


@family_rule("linear map", "epsilon", multiplies=True)
def epsilon(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-6, bias: str = "absorb") -> Flow:
    """ε rule: `R_x = x ⊙ Wᵀ(R / s(z))`; in unit form and in the limit ε → 0 just `g_x = Wᵀ g`.

    Args:
        op: the operation.
        linear: its map.
        relevance: of the result.
        epsilon: the stabiliser; 0 for the limit.
        bias: "absorb" (z is the true output) or "ignore" (z without bias and constants).
    """
    constants = linear.kept(bias)
    ignored = len(constants) < len(linear.constants)
    q = op.quotient(relevance, epsilon, (lambda: without_constants(op, linear)) if ignored else None)
    return hand_on(op, linear, lambda part: [Message(q, part.weight())], constants)


@family_rule("linear map", "zero", of_differences=True)
def zero(op: Op, linear: LinearMap, relevance: Relevance) -> Flow:
    """Nothing goes on."""
    op.absorb("zero", lambda: op.total(relevance))
    return dict.fromkeys((*op.active, *op.wanted))


@singledispatch
def sign_parts(weight: Weight) -> dict[int, Weight]:
    """By sign, the parts of the weights (or of a constant) that there are: W⁺ under +1, W⁻ under −1."""
    return {sign: clamp_sign(weight, sign) for sign in (+1, -1)}


@sign_parts.register(int)
@sign_parts.register(float)
def _(weight: float) -> dict[int, Weight]:
    return {-1 if weight < 0 else +1: weight}


@singledispatch
def support(weight: Weight) -> Weight:
    """The weights with every connection equally strong: 1."""
    return torch.ones_like(weight)


@support.register(int)
@support.register(float)
def _(weight: float) -> Weight:
    return 1.0


def clamp_sign(tensor: Tensor, sign: int) -> Tensor:
    """`v⁺` for sign +1, `v⁻` for sign −1."""
    return tensor.clamp(min=0) if sign > 0 else tensor.clamp(max=0)


def split_check(op: Op, linear: LinearMap) -> None:
    """Make sure that the map's weights can be taken apart.

    Raises:
        RuleError: they are implied (a normalisation).
    """
    if not all(term.splits for term in linear.terms):
        raise RuleError(f"{op.target} has no weights to split by sign: give it the rule 'epsilon'")


def without_constants(op: Op, linear: LinearMap) -> Tensor:
    """The result less its constants: `W x`."""
    if linear.fan_in == 1:
        # As cheap, and exact next to a constant that is large or infinite (a mask).
        return add_up([term.apply(term.value(op), term.weight()) for term in linear.terms])
    return op.output - add_up([constant.weight() for constant in linear.constants])


def add_up(tensors: Sequence[Tensor | float]) -> Tensor:
    """Sum of at least one tensor, without the 0 that Python's own sum starts from."""
    return cast(Tensor, reduce(operator.add, tensors))


def scaled(tensor: Tensor, factor: Tensor | float) -> Tensor:
    """`tensor ⊙ factor`, without an operation for the number 1."""
    return tensor if not isinstance(factor, Tensor) and factor == 1 else tensor * factor
