"""Sums of tensors: add, sub, rsub, sum, mean, cumsum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import one_active, two_active
from lrp_compiler.rules.linear_map import Constant, LinearMap, Term, Weight, scaled
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import Describe, Overload, Register, operator
from lrp_compiler.rules.relevance import normalise_dims, sum_to_shape
from lrp_compiler.rules.traits import Summand, declare, keeps_sign, traits

aten = torch.ops.aten


def summand(op: Op, name: str, factor: Tensor | float) -> Term:
    """The operand's part of a sum: itself times a number, broadcast."""
    shape = op.shape(name)
    return Term(
        name,
        apply=scaled,
        transpose=lambda q, weight: sum_to_shape(scaled(q, weight), shape),
        weight=lambda: factor if isinstance(factor, Tensor) else float(factor),
        channel=channel_of(shape),
    )


def channel_of(shape: torch.Size) -> int:
    """The channel dim of a tensor that no layer explains: dim 1 of images and sequences of them, else the last."""
    return 1 if len(shape) > 2 else -1


def addition(op: Op, factors: dict[str, Tensor | float]) -> LinearMap:
    """`Σ factor · operand`: active operands are terms, the others a constant."""
    terms = tuple(summand(op, name, factor) for name, factor in factors.items() if op.is_active(name))

    def constant(name: str, factor: Tensor | float) -> Constant:
        return Constant("constant", lambda: scaled(cast(Tensor, op.factor(name)), factor), name, op.is_number(name))

    return LinearMap(terms, tuple(constant(*item) for item in factors.items() if not op.is_active(item[0])))


def sum_of_two(*targets: Overload, **sums: Summand) -> Register[Describe]:
    """Register a sum: of two activations (kind "addition"), or of one and a constant (kind "shift")."""

    declare(*targets, pairs=True, arithmetic=True, sums=sums)

    def register(describe: Describe) -> Describe:
        operator(*targets, kind="addition", family="linear map", rule="epsilon", when=two_active)(describe)
        return operator(*targets, kind="shift", family="linear map", rule="epsilon", when=one_active)(describe)

    return register


def _factor(op: Op, summand: Summand) -> Tensor | float:
    number = 1 if summand.factor is None else op.number(summand.factor)
    return number if summand.sign > 0 else -number


@sum_of_two(aten.add.Tensor, aten.add.Scalar, self=Summand(+1), other=Summand(+1, "alpha"))
@sum_of_two(aten.sub.Tensor, aten.sub.Scalar, self=Summand(+1), other=Summand(-1, "alpha"))
@sum_of_two(aten.rsub.Tensor, aten.rsub.Scalar, self=Summand(-1, "alpha"), other=Summand(+1))
def of_two(op: Op) -> LinearMap:
    """`self ± alpha · other`, or `other − alpha · self`."""
    return addition(op, {name: _factor(op, summand) for name, summand in traits(op.target).sums.items()})


declare(aten.add.Tensor, sign=keeps_sign("self", "other", "alpha"), neutral=0)
declare(aten.sub.Tensor, neutral=0)


def reduction(op: Op, dims: int | Sequence[int] | None, keepdim: bool, average: bool) -> LinearMap:
    """Sum or mean over `dims`; the transpose hands every element the same."""
    shape = op.shape("self")
    reduced = normalise_dims(dims, len(shape))
    count: int | torch.SymInt = 1
    for dim in reduced:
        count = count * shape[dim]

    def transpose(q: Tensor, weight: Weight) -> Tensor:
        q = scaled(q, weight)
        for dim in () if keepdim else sorted(reduced):
            q = q.unsqueeze(dim)
        return (q / count if average else q).expand(shape)

    return LinearMap(
        (
            Term(
                "self",
                apply=lambda x, weight: scaled(
                    x.mean(reduced, keepdim) if average else x.sum(reduced, keepdim), weight
                ),
                transpose=transpose,
                channel=channel_of(shape),
            ),
        )
    )


@operator(
    aten.sum.default,
    aten.sum.dim_IntList,
    kind="sum",
    family="linear map",
    rule="epsilon",
    sign=keeps_sign(),
    reduces=True,
)
def sum_(op: Op) -> LinearMap:
    """Sum over dims (all of them by default)."""
    return reduction(op, op.arguments.get("dim"), bool(op.arguments.get("keepdim")), average=False)


@operator(
    aten.mean.default,
    aten.mean.dim,
    kind="average",
    family="linear map",
    rule="epsilon",
    sign=keeps_sign(),
    reduces=True,
)
def mean(op: Op) -> LinearMap:
    """Mean over dims (all of them by default)."""
    return reduction(op, op.arguments.get("dim"), bool(op.arguments.get("keepdim")), average=True)


@operator(aten.cumsum.default, kind="sum", family="linear map", rule="epsilon", sign=keeps_sign())
def cumulative_sum(op: Op) -> LinearMap:
    """Running sum along a dim; its transpose sums from the other end."""
    dim, shape = op.option("dim"), op.shape("self")
    term = Term(
        "self",
        apply=lambda x, weight: scaled(x.cumsum(dim), weight),
        transpose=lambda q, weight: scaled(q, weight).flip(dim).cumsum(dim).flip(dim),
        channel=channel_of(shape),
    )
    return LinearMap((term,))
