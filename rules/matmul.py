"""Matrix products: their transposes, and the rules of products of two activations.

Source: the uniform rule of Achtibat et al., "AttnLRP", arXiv 2402.05602.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_map import Weight
from .op import Op
from .product import GATE
from .registry import Flow, family_rule
from .relevance import Relevance, sum_to_shape, unit

READOUT = "readout"
"""Kind of a matrix product in which one operand gates the other."""


def transpose_left(q: Tensor, b: Weight, shape: torch.Size) -> Tensor:
    """`q Bᵀ`: the transpose of `A ↦ A B`, shaped like A (`shape`), for every rank that matmul takes."""
    if len(shape) == 1:
        q = q.unsqueeze(-1 if b.dim() == 1 else -2)
    if b.dim() == 1:
        grown = q.unsqueeze(-1) * b if len(shape) > 1 else q * b
    else:
        grown = torch.matmul(q, b.transpose(-1, -2))
        grown = grown.squeeze(-2) if len(shape) == 1 else grown
    return sum_to_shape(grown, shape)


def transpose_right(q: Tensor, a: Weight, shape: torch.Size) -> Tensor:
    """`Aᵀ q`: the transpose of `B ↦ A B`, shaped like B (`shape`), for every rank that matmul takes."""
    if a.dim() == 1:
        grown = a.unsqueeze(-1) * q.unsqueeze(-2) if len(shape) > 1 else a * q
    elif len(shape) == 1:
        grown = (a * q.unsqueeze(-1)).flatten(0, -2).sum(0)
    else:
        grown = torch.matmul(a.transpose(-1, -2), q)
    return sum_to_shape(grown, shape)


@family_rule("matrix product", "uniform", multiplies=True)
def uniform(op: Op, operands: tuple[str, str], relevance: Relevance, epsilon: float = 0.0) -> Flow:
    """Half to each: `R_A = A ⊙ q Bᵀ`, `R_B = B ⊙ Aᵀ q` with `q = R / (2 s(O))`; in the limit ε → 0, `q = g/2`."""
    left, right = operands
    q: Tensor = 0.5 * op.quotient(relevance, epsilon)
    return {
        left: unit(transpose_left(q, op.tensor(right), op.shape(left))),
        right: unit(transpose_right(q, op.tensor(left), op.shape(right))),
    }


@family_rule("matrix product", "signal")
def signal(op: Op, operands: tuple[str, str], relevance: Relevance, epsilon: float = 0.0) -> Flow:
    """The gate is held fixed: the matrix that it reads takes all, as through a map with constant weights."""
    left, right = operands
    q = op.quotient(relevance, epsilon)
    if op.fact(GATE) == right:
        return {left: unit(transpose_left(q, op.tensor(right), op.shape(left))), right: None}
    return {left: None, right: unit(transpose_right(q, op.tensor(left), op.shape(right)))}
