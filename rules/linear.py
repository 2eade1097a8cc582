"""Dense layers: linear, addmm, mm, bmm and matmul with one operand constant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .linear_map import LinearMap, Term, Weight
from .op import Op, only
from .registry import operator
from .relevance import sum_to_shape

aten = torch.ops.aten


def bias_of(op: Op, name: str = "bias") -> dict[str, Any]:
    """The `constants` of a map with an optional bias operand."""
    return {"bias": lambda: op.tensor(name)} if op.has(name) else {}


@operator(aten.linear.default, kind="linear", family="linear map", rule="epsilon", when=only("input"))
def linear(op: Op) -> LinearMap:
    """`y = x Wᵀ + b` over the last dim."""
    term = Term(
        "input",
        apply=lambda x, weight: torch.nn.functional.linear(x, weight),
        transpose=lambda q, weight: torch.matmul(q, weight),
        weight=lambda: op.tensor("weight"),
        fan_in=op.shape("input")[-1],
    )
    return LinearMap((term,), bias_of(op))


def matmul_terms(op: Op, left: str, right: str) -> tuple[Term, ...]:
    """The active one of two matrix operands, the other one being its weights."""
    a_shape, b_shape = op.shape(left), op.shape(right)
    terms = {
        left: Term(
            left,
            apply=lambda a, b: torch.matmul(a, b),
            transpose=lambda q, b: transpose_left(q, b, a_shape),
            weight=lambda: op.tensor(right),
            fan_in=a_shape[-1],
        ),
        right: Term(
            right,
            apply=lambda b, a: torch.matmul(a, b),
            transpose=lambda q, a: transpose_right(q, a, b_shape),
            weight=lambda: op.tensor(left),
            fan_in=a_shape[-1],
        ),
    }
    return tuple(terms[name] for name in op.active)


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


@operator(aten.mm.default, kind="linear", family="linear map", rule="epsilon", when=only("self"))
@operator(aten.mm.default, kind="linear", family="linear map", rule="epsilon", when=only("mat2"))
@operator(aten.bmm.default, kind="linear", family="linear map", rule="epsilon", when=only("self"))
@operator(aten.bmm.default, kind="linear", family="linear map", rule="epsilon", when=only("mat2"))
def mm(op: Op) -> LinearMap:
    """`Y = A B` with A or B constant."""
    return LinearMap(matmul_terms(op, "self", "mat2"))


@operator(aten.matmul.default, kind="linear", family="linear map", rule="epsilon", when=only("self"))
@operator(aten.matmul.default, kind="linear", family="linear map", rule="epsilon", when=only("other"))
def matmul(op: Op) -> LinearMap:
    """`Y = A B` with A or B constant, leading dims broadcast."""
    return LinearMap(matmul_terms(op, "self", "other"))


@operator(aten.addmm.default, kind="linear", family="linear map", rule="epsilon", when=only("mat1"))
@operator(aten.addmm.default, kind="linear", family="linear map", rule="epsilon", when=only("mat2"))
def addmm(op: Op) -> LinearMap:
    """`Y = β b + α A B` with A or B constant."""
    alpha, beta = op.option("alpha"), op.option("beta")

    def scaled(term: Term) -> Term:
        if alpha == 1:
            return term
        return replace(term, weight=lambda: term.weight() * alpha)

    terms = tuple(scaled(term) for term in matmul_terms(op, "mat1", "mat2"))
    return LinearMap(terms, {"bias": lambda: op.tensor("self") * beta if beta != 1 else op.tensor("self")})
