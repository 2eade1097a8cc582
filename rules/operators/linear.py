"""Dense layers: linear, addmm, mm, bmm, matmul and their like with one operand constant."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import only
from lrp_compiler.rules.linear_map import Constant, LinearMap, Term, scaled
from lrp_compiler.rules.matmul import transpose_left, transpose_right
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import Overload, operator
from lrp_compiler.rules.traits import Products, declare

aten = torch.ops.aten


def bias_of(op: Op, name: str = "bias", factor: Tensor | float = 1) -> tuple[Constant, ...]:
    """The constants of a map with an optional bias operand."""

    def bias() -> Tensor:
        return scaled(op.floats(name), factor)

    return (Constant("bias", bias, name),) if op.has(name) else ()


def summed_over(operand: str) -> Products:
    """Every element of the result is a sum over the last dim of an operand."""
    return lambda given, result: prod(result) * int(given[operand][-1])


@operator(
    aten.linear.default,
    kind="linear",
    channels=-1,
    family="linear map",
    rule="epsilon",
    when=only("input"),
    bias="bias",
    bias_trails=0,
    output_channel=0,
    products=summed_over("input"),
)
def linear(op: Op) -> LinearMap:
    """`y = x Wᵀ + b` over the last dim."""
    term = Term(
        "input",
        apply=lambda x, weight: torch.nn.functional.linear(x, weight),
        transpose=lambda q, weight: torch.matmul(q, weight),
        weight=lambda: op.floats("weight"),
        parameter="weight",
        weigh=lambda q, x: torch.matmul(q.reshape(-1, q.shape[-1]).t(), x.reshape(-1, x.shape[-1])),
        fan_in=op.shape("input")[-1],
    )
    return LinearMap((term,), bias_of(op))


def matmul_terms(op: Op, left: str, right: str, alpha: Tensor | float = 1) -> tuple[Term, ...]:
    """The active one of two matrix operands, the other one, times `alpha`, being its weights."""
    a_shape, b_shape = op.shape(left), op.shape(right)

    def weight(name: str) -> Callable[[], Tensor]:
        return lambda: scaled(op.floats(name), alpha)

    on_left = Term(
        left,
        apply=lambda a, b: torch.matmul(a, b),
        transpose=lambda q, b: transpose_left(q, b, a_shape),
        weight=weight(right),
        parameter=right,
        weigh=lambda q, a: transpose_right(q, a, b_shape),
        fan_in=a_shape[-1],
    )
    on_right = Term(
        right,
        apply=lambda b, a: torch.matmul(a, b),
        transpose=lambda q, a: transpose_right(q, a, b_shape),
        weight=weight(left),
        parameter=left,
        weigh=lambda q, b: transpose_left(q, b, a_shape),
        fan_in=a_shape[-1],
    )
    return (on_left if op.active == (left,) else on_right,)


PRODUCTS: dict[Overload, tuple[str, str]] = {
    aten.mm.default: ("self", "mat2"),
    aten.bmm.default: ("self", "mat2"),
    aten.mv.default: ("self", "vec"),
    aten.dot.default: ("self", "tensor"),
    aten.matmul.default: ("self", "other"),
}
"""The two matrix operands of `Y = A B`."""
SCALED_PRODUCTS: dict[Overload, tuple[str, str]] = {
    aten.addmm.default: ("mat1", "mat2"),
    aten.addmv.default: ("mat", "vec"),
}
"""Those of `Y = β b + α A B`."""


def product(op: Op) -> LinearMap:
    """`Y = A B` with A or B constant; where ranks differ, leading dims are broadcast."""
    return LinearMap(matmul_terms(op, *PRODUCTS[op.target]))


def scaled_product(op: Op) -> LinearMap:
    """`Y = β b + α A B` with A or B constant."""
    terms = matmul_terms(op, *SCALED_PRODUCTS[op.target], alpha=op.number("alpha"))
    return LinearMap(terms, bias_of(op, "self", op.number("beta")))


for describe, table in ((product, PRODUCTS), (scaled_product, SCALED_PRODUCTS)):
    for target, operands in table.items():
        for operand in operands:
            operator(target, kind="linear", channels=-1, family="linear map", rule="epsilon", when=only(operand))(
                describe
            )
        declare(target, products=summed_over(operands[0]), matrices=operands if table is PRODUCTS else None)
