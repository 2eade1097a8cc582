"""Products and quotients of two activations, elementwise and of matrices."""

from __future__ import annotations

import torch

from lrp_compiler.rules.conditions import two_active
from lrp_compiler.rules.matmul import READOUT
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.product import GATE, Product, gated
from lrp_compiler.rules.registry import operator

aten = torch.ops.aten


@operator(aten.mul.Tensor, kind="product", family="product", rule="uniform", when=two_active & ~gated)
@operator(aten.mul.Tensor, kind="gate", family="product", rule="uniform", when=two_active & gated)
def multiply(op: Op) -> Product:
    """Each operand's factor is the other one."""
    return Product({"self": "other", "other": "self"}, op.fact(GATE))


@operator(aten.div.Tensor, kind="quotient", family="quotient", rule="frozen-divisor", when=two_active)
def quotient(op: Op) -> None:
    """a / b."""


@operator(aten.matmul.default, kind="matmul", family="matrix product", rule="uniform", when=two_active & ~gated)
@operator(aten.matmul.default, kind=READOUT, family="matrix product", rule="uniform", when=two_active & gated)
def matmul(op: Op) -> tuple[str, str]:
    """O = A B, leading dims broadcast."""
    return "self", "other"


PLAIN = (aten.bmm.default, aten.mm.default)


@operator(*PLAIN, kind="matmul", family="matrix product", rule="uniform", when=two_active & ~gated)
@operator(*PLAIN, kind=READOUT, family="matrix product", rule="uniform", when=two_active & gated)
def bmm(op: Op) -> tuple[str, str]:
    """O = A B."""
    return "self", "mat2"
