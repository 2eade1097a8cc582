"""Shares by magnitude: every operand of a sum or a product takes relevance in proportion to its absolute value.

Source: "Always Keep Your Promises: DynamicLRP", arXiv 2512.07010.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_map import LinearMap, Message, Weight, add_up, hand_on, split_check
from .matmul import uniform as uniform_matmul
from .op import Op
from .product import Product
from .registry import Flow, family_rule
from .relevance import Relevance, sum_to_shape, total


@family_rule("linear map", "magnitude")
def magnitude(op: Op, linear: LinearMap, relevance: Relevance, epsilon: float = 1e-11) -> Flow:
    """`R_x = |x| ⊙ |W|ᵀ(R / (A + ε))`, `A = Σ |W||x| + |b|`: for sums `R·|a| / (|a| + |b|)`.

    A constant tensor absorbs its share; a plain number takes none.
    """
    split_check(op, linear)
    constants = tuple(constant for constant in linear.constants if not constant.number)
    parts = linear.parts(constants)
    size = add_up([part.apply(magnitude_of(part.value(op)), magnitude_of(part.weight())) for part in parts])
    q = _total(op, relevance) / (size + epsilon)
    op.absorb("stabiliser", lambda: q * epsilon)
    return hand_on(
        op, linear, lambda part: [Message(q, magnitude_of(part.weight()), magnitude_of(part.value(op)))], constants
    )


def magnitude_of(value: Weight) -> Weight:
    """`|value|`, an infinite one (a mask) as the largest number that there is."""
    return abs(value).clamp(max=torch.finfo(value.dtype).max) if isinstance(value, Tensor) else abs(value)


def _total(op: Op, relevance: Relevance) -> Tensor:
    """`R`, with 0 for a result that a mask made infinite and that got no share."""
    most = torch.finfo(relevance.tensor.dtype).max
    # By the result itself: what became of it further on may be infinite, too, and is not bounded.
    return Relevance(relevance.tensor, relevance.form).total_of(lambda: op.output.clamp(-most, most))


@family_rule("product", "magnitude")
def product(op: Op, product: Product, relevance: Relevance, epsilon: float = 1e-11) -> Flow:
    """`R_a = R·|a| / (|a| + |b| + ε)`."""
    sizes: dict[str, Tensor] = {name: magnitude_of(op.tensor(name)) for name in product.factors}
    q = _total(op, relevance) / (add_up(list(sizes.values())) + epsilon)
    op.absorb("stabiliser", lambda: q * epsilon)
    return {name: total(sum_to_shape(q * share, op.shape(name))) for name, share in sizes.items()}


@family_rule("matrix product", "full")
def full(op: Op, operands: tuple[str, str], relevance: Relevance, epsilon: float = 1e-11) -> Flow:
    """All of R to each operand, by the ε rule with the other as weights: relevance doubles, and the books say so."""
    op.absorb("doubled", lambda: -op.total(relevance))
    doubled = relevance.map(lambda r: 2 * r)
    return uniform_matmul(op, operands, doubled, epsilon)
