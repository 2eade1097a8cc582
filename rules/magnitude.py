"""Shares by magnitude: every operand of a sum or a product takes relevance in proportion to its absolute value.

Source: "Always Keep Your Promises: DynamicLRP", arXiv 2512.07010.
"""

from __future__ import annotations

from torch import Tensor

from .linear_map import LinearMap, Message, add_up, hand_on, split_check
from .op import Op
from .product import GATE, uniform_matmul
from .registry import Flow, family_rule
from .relevance import Relevance, sum_to_shape, total


@family_rule("linear map", "magnitude")
def magnitude(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-11) -> Flow:
    """`R_x = |x| ⊙ |W|ᵀ(R / (A + ε))`, `A = Σ |W||x| + |b|`: for sums `R·|a| / (|a| + |b|)`.

    A constant tensor absorbs its share; a plain number takes none.
    """
    split_check(op, linear)
    constants = tuple(constant for constant in linear.constants if isinstance(constant.weight(), Tensor))
    size = add_up([part.apply(abs(part.value(op)), abs(part.weight())) for part in linear.parts(constants)])
    q = op.total(relevance) / (size + epsilon)
    op.absorb("stabiliser", lambda: q * epsilon)
    return hand_on(op, linear, lambda part: [Message(q, abs(part.weight()), abs(part.value(op)))], constants)


@family_rule("product", "magnitude")
def product(op: Op, factors: dict[str, str], relevance: Relevance, epsilon: float = 1e-11) -> Flow:
    """`R_a = R·|a| / (|a| + |b| + ε)`."""
    sizes: dict[str, Tensor] = {name: op.tensor(name).abs() for name in factors if name != GATE}
    q = op.total(relevance) / (add_up(list(sizes.values())) + epsilon)
    op.absorb("stabiliser", lambda: q * epsilon)
    return {name: total(sum_to_shape(q * share, op.shape(name))) for name, share in sizes.items()}


@family_rule("matrix product", "full")
def full(op: Op, operands: tuple[str, str], relevance: Relevance, epsilon: float = 1e-11) -> Flow:
    """All of R to each operand, by the ε rule with the other as weights: relevance doubles, and the books say so."""
    op.absorb("doubled", lambda: -op.total(relevance))
    doubled = relevance.map(lambda r: 2 * r)
    return uniform_matmul(op, operands, doubled, epsilon)
