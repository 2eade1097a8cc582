"""Products of two activations: elementwise and matrix products.

Source: the uniform rule of Achtibat et al., "AttnLRP", arXiv 2402.05602.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.operators.linear import transpose_left, transpose_right

from .op import Op, two_active
from .registry import Flow, family_rule, operator
from .relevance import Relevance, sum_to_shape, unit

aten = torch.ops.aten

GATE = "gate"
"""Argument of a product: the name of the operand that gates the other one."""
READOUT = "readout"
"""Kind of a matrix product in which one operand gates the other."""


def has_gate(op: Op) -> bool:
    """Condition of an operator: two operands carry relevance, and one of them gates the other (see `find_gates`)."""
    return two_active(op) and op.arguments.get(GATE) is not None


@operator(aten.mul.Tensor, kind="product", family="product", rule="uniform", when=two_active)
@operator(aten.mul.Tensor, kind="gate", family="product", rule="uniform", when=has_gate)
def multiply(op: Op) -> dict[str, str]:
    """Each operand's factor is the other one."""
    return {"self": "other", "other": "self"}


@family_rule("product", "uniform")
def uniform(op: Op, factors: dict[str, str], relevance: Relevance) -> Flow:
    """Half to each: `R_a = R_b = R/2`; in unit form `g_a = g ⊙ b / 2`."""

    def share(name: str, factor: str) -> Relevance:
        whole = relevance.rescaled(lambda g: g * op.tensor(factor))
        return whole.map(lambda r: sum_to_shape(0.5 * r, op.shape(name)))

    return {name: share(name, factor) for name, factor in factors.items()}


@family_rule("product", "signal")
def signal(op: Op, factors: dict[str, str], relevance: Relevance) -> Flow:
    """The gate is held fixed: what it lets through takes all, `g_a = g ⊙ gate`.

    Source: Arras et al., "Explaining recurrent neural network predictions in sentiment analysis", 2017,
    arXiv 1706.07206 ("signal-take-all"); for gated layers of transformers Ali et al., arXiv 2202.07304.
    """
    gate = op.option(GATE)
    name = factors[gate]
    share = relevance.rescaled(lambda g: g * op.tensor(gate))
    return {name: share.map(lambda r: sum_to_shape(r, op.shape(name))), gate: None}


@operator(aten.div.Tensor, kind="quotient", family="quotient", rule="frozen-divisor", when=two_active)
def quotient(op: Op) -> None:
    """a / b."""


@family_rule("quotient", "frozen-divisor")
def frozen_divisor(op: Op, description: None, relevance: Relevance) -> Flow:
    """The divisor is held fixed: all to the dividend, `g_a = g / b`."""
    share = relevance.rescaled(lambda g: g / op.tensor("other"))
    return {"self": share.map(lambda r: sum_to_shape(r, op.shape("self"))), "other": None}


@operator(aten.matmul.default, kind="matmul", family="matrix product", rule="uniform", when=two_active)
@operator(aten.matmul.default, kind=READOUT, family="matrix product", rule="uniform", when=has_gate)
def matmul(op: Op) -> tuple[str, str]:
    """O = A B, leading dims broadcast."""
    return "self", "other"


@operator(aten.bmm.default, aten.mm.default, kind="matmul", family="matrix product", rule="uniform", when=two_active)
@operator(aten.bmm.default, aten.mm.default, kind=READOUT, family="matrix product", rule="uniform", when=has_gate)
def bmm(op: Op) -> tuple[str, str]:
    """O = A B."""
    return "self", "mat2"


@family_rule("matrix product", "uniform")
def uniform_matmul(op: Op, operands: tuple[str, str], relevance: Relevance, epsilon: float = 0.0) -> Flow:
    """Half to each: `R_A = A ⊙ q Bᵀ`, `R_B = B ⊙ Aᵀ q` with `q = R / (2 s(O))`; in the limit ε → 0, `q = g/2`."""
    left, right = operands
    q: Tensor = 0.5 * op.quotient(relevance, epsilon)
    return {
        left: unit(transpose_left(q, op.tensor(right), op.shape(left))),
        right: unit(transpose_right(q, op.tensor(left), op.shape(right))),
    }


@family_rule("matrix product", "signal")
def signal_matmul(op: Op, operands: tuple[str, str], relevance: Relevance, epsilon: float = 0.0) -> Flow:
    """The gate is held fixed: the matrix that it reads takes all, as through a map with constant weights."""
    left, right = operands
    q = op.quotient(relevance, epsilon)
    if op.option(GATE) == right:
        return {left: unit(transpose_left(q, op.tensor(right), op.shape(left))), right: None}
    return {left: None, right: unit(transpose_right(q, op.tensor(left), op.shape(right)))}
