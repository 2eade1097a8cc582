"""Sums of tensors: add, sub, rsub, sum, mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .linear_map import LinearMap, Term, Weight
from .op import Op, one_active, two_active
from .registry import operator
from .relevance import normalise_dims, sum_to_shape

aten = torch.ops.aten


def summand(op: Op, name: str, factor: float) -> Term:
    """The operand's part of a sum: itself times a plain number, broadcast."""
    shape = op.shape(name)

    def scale(tensor: Tensor, weight: Weight) -> Tensor:
        return tensor if weight is None or weight == 1 else tensor * weight

    return Term(
        name,
        apply=scale,
        transpose=lambda q, weight: sum_to_shape(scale(q, weight), shape),
        weight=lambda: None if factor == 1 else float(factor),
    )


def addition(op: Op, factors: dict[str, float]) -> LinearMap:
    """`Σ factor · operand`: active operands are terms, the others a constant."""
    terms = tuple(summand(op, name, factor) for name, factor in factors.items() if op.is_active(name))

    def constant() -> Tensor:
        parts: Any = [op.factor(name) * factor for name, factor in factors.items() if not op.is_active(name)]
        return torch.as_tensor(sum(parts))

    return LinearMap(terms, {"constant": constant} if len(terms) < len(factors) else {})


def sum_of_two(*targets: Any) -> Any:
    """Register a sum: of two activations (kind "addition"), or of one and a constant (kind "shift")."""

    def register(describe: Any) -> Any:
        operator(*targets, kind="addition", family="linear map", rule="epsilon", when=two_active)(describe)
        return operator(*targets, kind="shift", family="linear map", rule="epsilon", when=one_active)(describe)

    return register


@sum_of_two(aten.add.Tensor, aten.add.Scalar)
def add(op: Op) -> LinearMap:
    """`self + alpha · other`."""
    return addition(op, {"self": 1, "other": op.option("alpha")})


@sum_of_two(aten.sub.Tensor, aten.sub.Scalar)
def sub(op: Op) -> LinearMap:
    """`self − alpha · other`."""
    return addition(op, {"self": 1, "other": -op.option("alpha")})


@sum_of_two(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(op: Op) -> LinearMap:
    """`other − alpha · self`."""
    return addition(op, {"self": -op.option("alpha"), "other": 1})


def reduction(op: Op, dims: Any, keepdim: bool, average: bool) -> LinearMap:
    """Sum or mean over `dims`; the transpose hands every element the same."""
    shape = op.shape("self")
    reduced = normalise_dims(dims, len(shape))
    count: Any = 1
    for dim in reduced:
        count = count * shape[dim]

    def transpose(q: Tensor, weight: Weight) -> Tensor:
        for dim in () if keepdim else sorted(reduced):
            q = q.unsqueeze(dim)
        return (q / count if average else q).expand(shape)

    return LinearMap(
        (
            Term(
                "self",
                apply=lambda x, weight: x.mean(reduced, keepdim) if average else x.sum(reduced, keepdim),
                transpose=transpose,
                fan_in=count if isinstance(count, int) else 1 << 20,
            ),
        )
    )


@operator(aten.sum.default, aten.sum.dim_IntList, kind="sum", family="linear map", rule="epsilon")
def sum_(op: Op) -> LinearMap:
    """Sum over dims (all of them by default)."""
    return reduction(op, op.arguments.get("dim"), bool(op.arguments.get("keepdim")), average=False)


@operator(aten.mean.default, aten.mean.dim, kind="average", family="linear map", rule="epsilon")
def mean(op: Op) -> LinearMap:
    """Mean over dims (all of them by default)."""
    return reduction(op, op.arguments.get("dim"), bool(op.arguments.get("keepdim")), average=True)
