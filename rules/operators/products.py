"""Products and quotients of two activations, elementwise and of matrices; products of all elements along a dim."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import two_active
from lrp_compiler.rules.matmul import READOUT
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.product import GATE, Factors, Product, gated
from lrp_compiler.rules.registry import operator
from lrp_compiler.rules.selection import FILLED, Selection, Transpose
from lrp_compiler.rules.traits import keeps_sign
from lrp_compiler.torch_private import statically_known_true

from .linear import PRODUCTS

aten = torch.ops.aten


@operator(aten.mul.Tensor, kind="product", family="product", rule="uniform", when=two_active & ~gated)
@operator(aten.mul.Tensor, kind="gate", family="product", rule="uniform", when=two_active & gated)
def multiply(op: Op) -> Product:
    """Each operand's factor is the other one."""
    return Product({"self": "other", "other": "self"}, op.fact(GATE))


@operator(aten.div.Tensor, kind="quotient", family="quotient", rule="frozen-divisor", when=two_active)
def quotient(op: Op) -> bool:
    """a / b."""
    return True


@operator(
    aten.div.Tensor_mode,
    aten.fmod.Tensor,
    aten.remainder.Tensor,
    kind="quotient",
    family="quotient",
    rule="frozen-divisor",
    when=two_active,
)
def whole_quotient(op: Op) -> bool:
    """A quotient that is rounded, or what it leaves: the divisor says in which steps the dividend is counted.

    A quotient's divisor is held fixed; so is that of its parts, `a = b · ⌊a/b⌋ + remainder`, whose shares of a then add
    up.
    """
    return False


@operator(aten.pow.Tensor_Tensor, kind="power", family="product", rule="uniform", when=two_active)
def power(op: Op) -> Product:
    """`x^y = exp(y · log x)`: the exponential and the logarithm pass relevance on, the product halves it.

    The value at x = 0 and below, where there is no logarithm, has the same shares.
    """
    return Product({"self": None, "exponent": None})


@operator(aten.atan2.default, kind="angle", family="product", rule="uniform", when=two_active)
def angle(op: Op) -> Product:
    """The angle of the point (x, y): either coordinate turns it, and a common factor does nothing: half to each.

    By slopes both shares would be nothing together, `x ∂φ/∂x + y ∂φ/∂y = 0`; the quotient y/x inside would give all to
    y, even on the negative axis, where y ≈ 0 decides nothing but the sign.
    """
    return Product({"self": None, "other": None})


OF_MATRICES = (aten.matmul.default, aten.bmm.default, aten.mm.default)


@operator(*OF_MATRICES, kind="matmul", family="matrix product", rule="uniform", when=two_active & ~gated)
@operator(*OF_MATRICES, kind=READOUT, family="matrix product", rule="uniform", when=two_active & gated)
def matmul(op: Op) -> tuple[str, str]:
    """O = A B, leading dims broadcast."""
    return PRODUCTS[op.target]


FACTORS = "factors"
"""Kind of a product of any number of elements."""


@operator(aten.prod.default, kind=FACTORS, family="factors", rule="uniform", sign=keeps_sign())
def product_of_all(op: Op) -> Factors:
    """The product of all elements."""
    shape = op.shape("self")
    shares = _shared(math.prod(shape), lambda R: R.expand(shape))
    return Factors(shares, lambda x: x.flatten(), lambda r: r.unsqueeze(-1), lambda r: r.reshape(shape))


@operator(aten.prod.dim_int, kind=FACTORS, family="factors", rule="uniform", sign=keeps_sign())
def product_along(op: Op) -> Factors:
    """The product along a dim."""
    shape, dim = op.shape("self"), op.option("dim")
    count = shape[dim] if shape else 1
    kept = op.option("keepdim") or not shape
    shares = _shared(count, lambda R: (R if kept else R.unsqueeze(dim)).expand(shape))
    if not shape:
        return Factors(shares, lambda x: x.unsqueeze(-1), lambda r: r.unsqueeze(-1), lambda r: r.squeeze(-1))
    return Factors(
        shares,
        lambda x: _to_end(x, dim),
        lambda r: _to_end(r, dim) if kept else r.unsqueeze(-1),
        lambda r: _from_end(r, dim),
    )


def _to_end(x: Tensor, dim: int) -> Tensor:
    """This dim behind the others."""
    return x.permute([place for place in range(x.dim()) if place != dim % x.dim()] + [dim % x.dim()])


def _from_end(x: Tensor, dim: int) -> Tensor:
    """The last dim at this place."""
    order = list(range(x.dim() - 1))
    order.insert(dim % x.dim(), x.dim() - 1)
    return x.permute(order)


def _shared(count: int | torch.SymInt, grow: Transpose) -> Selection:
    if statically_known_true(count == 0):  # the product of nothing is 1
        return {"self": grow, FILLED: lambda R: R}
    return {"self": lambda R: grow(R / count)}


@operator(aten.cumprod.default, kind=FACTORS, family="factors", rule="uniform", sign=keeps_sign())
def running_product(op: Op) -> Factors:
    """The product of the first j elements along a dim, for every j: an element is a factor of all that follow."""
    shape, dim = op.shape("self"), op.option("dim")

    def transposed(R: Tensor) -> Tensor:
        if not shape:
            return R
        counts = torch.arange(1, shape[dim] + 1, dtype=R.dtype, device=R.device)
        each = R / counts.reshape([-1 if place == dim % len(shape) else 1 for place in range(len(shape))])
        return each.flip(dim).cumsum(dim).flip(dim)

    if not shape:
        alone: Transpose = lambda r: r.unsqueeze(-1)  # noqa: E731
        return Factors({"self": transposed}, alone, alone, lambda r: r.squeeze(-1))

    def taken(like: Tensor) -> Tensor:
        """`[products, factors]`: whether the one has the other."""
        places = torch.arange(shape[dim], device=like.device)
        return places <= places.unsqueeze(-1)

    return Factors(
        {"self": transposed},
        lambda x: torch.where(taken(x), _to_end(x, dim).unsqueeze(-2), 1.0),
        lambda r: _to_end(r, dim).unsqueeze(-1),
        lambda r: _from_end((r * taken(r).to(r.dtype)).sum(-2), dim),
    )
