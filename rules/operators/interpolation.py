"""Interpolation: upsampling and resizing by nearest, linear and cubic weights, as a linear map for each spatial dim.

The map is the Kronecker product of one small matrix per dim, `W = A ⊗ B ⊗ …`, of shape `[out, in]` each. What the rules
need of W follows from the matrices: `|W| = |A| ⊗ |B|`, `W² = A² ⊗ B²`, `W⁺ = A⁺ ⊗ B⁺ + A⁻ ⊗ B⁻`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import only
from lrp_compiler.rules.linear_map import LinearMap, Term, Weight, add_up, clamp_sign, scaled, sign_parts, support
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import Overload, operator
from lrp_compiler.rules.traits import declare, keeps_sign
from lrp_compiler.torch_private import known_size

aten = torch.ops.aten
T = TypeVar("T")


@dataclass(frozen=True)
class Separable:
    """Weights that are a sum of Kronecker products of one matrix per spatial dim.

    Args:
        products: the products; each a matrix `[out, in]` for every spatial dim.
        nonnegative: whether all elements are known to be ≥ 0.
    """

    products: tuple[tuple[Tensor, ...], ...]
    nonnegative: bool

    def each(self, function: Callable[[Tensor], Tensor], nonnegative: bool = True) -> Separable:
        """The function applied to every matrix."""
        return Separable(tuple(tuple(map(function, factors)) for factors in self.products), nonnegative)

    def __abs__(self) -> Separable:
        return self if self.nonnegative else self.each(torch.abs)

    def __pow__(self, exponent: int) -> Separable:
        return self.each(lambda matrix: matrix**exponent)

    def __rmul__(self, factor: float) -> Separable:
        products = tuple((first * factor, *rest) for first, *rest in self.products)
        return Separable(products, self.nonnegative and factor >= 0)

    def __add__(self, other: Separable) -> Separable:
        return Separable(self.products + other.products, self.nonnegative and other.nonnegative)

    def apply(self, x: Tensor) -> Tensor:
        """`W x`, over the last dims."""
        return add_up([along(x, factors) for factors in self.products])

    def transpose(self, q: Tensor) -> Tensor:
        """`Wᵀ q`, over the last dims."""
        return add_up([along(q, [matrix.t() for matrix in factors]) for factors in self.products])


@sign_parts.register(Separable)
def _(weight: Separable) -> dict[int, Separable]:
    if weight.nonnegative:
        return {+1: weight}
    (factors,) = weight.products
    split = [{side: clamp_sign(matrix, side) for side in (+1, -1)} for matrix in factors]
    parts: dict[int, list[tuple[Tensor, ...]]] = {+1: [], -1: []}
    for sides in product((+1, -1), repeat=len(factors)):
        parts[prod(sides)].append(tuple(matrix[side] for matrix, side in zip(split, sides, strict=True)))
    return {side: Separable(tuple(products), side > 0) for side, products in parts.items()}


@support.register(Separable)
def _(weight: Separable) -> Separable:
    return weight.each(lambda matrix: (matrix != 0).to(matrix.dtype))


def along(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Each matrix `[to, from]` applied along its dim, the last dims in order."""
    for dim, matrix in enumerate(factors, start=-len(factors)):
        if matrix.dtype != x.dtype:  # made of pixels, the relevance of which is a float
            matrix = matrix.to(x.dtype)
        if dim == -1:
            x = torch.matmul(x, matrix.t())
        elif dim == -2:
            x = torch.matmul(matrix, x)
        else:
            x = torch.matmul(x.transpose(dim, -1), matrix.t()).transpose(dim, -1)
    return x


@dataclass(frozen=True)
class Mode:
    """How many input elements make one result, along one dim, and whether the weights are ≥ 0."""

    neighbours: int
    nonnegative: bool = True


NEAREST, LINEAR, CUBIC = Mode(1), Mode(2), Mode(4, nonnegative=False)
MODES: dict[Overload, Mode] = {
    aten.upsample_nearest1d.vec: NEAREST,
    aten.upsample_nearest2d.vec: NEAREST,
    aten.upsample_nearest3d.vec: NEAREST,
    aten._upsample_nearest_exact1d.vec: NEAREST,
    aten._upsample_nearest_exact2d.vec: NEAREST,
    aten._upsample_nearest_exact3d.vec: NEAREST,
    aten.upsample_linear1d.vec: LINEAR,
    aten.upsample_bilinear2d.vec: LINEAR,
    aten.upsample_trilinear3d.vec: LINEAR,
    aten.upsample_bicubic2d.vec: CUBIC,
}


declare(
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest3d.vec,
    aten.upsample_linear1d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_trilinear3d.vec,
    sign=keeps_sign(),  # their weights are ≥ 0; bicubic ones are not
)


@operator(*MODES, kind="interpolation", channels=1, family="linear map", rule="epsilon", when=only("input"))
def interpolation(op: Op) -> LinearMap:
    """`torch.nn.functional.interpolate` without antialiasing ("area" arrives as an adaptive average pool)."""
    mode, dims = MODES[op.target], op.rank("input") - 2
    repeats = repetitions(op, dims)
    if mode.neighbours == 1 and all(repeats):
        return LinearMap((blocks(op, repeats),))
    term = Term(
        "input",
        apply=lambda x, weight: weight.apply(x),
        transpose=lambda q, weight: weight.transpose(q),
        weight=lambda: Separable((tuple(matrix(op, dim, dims) for dim in range(dims)),), mode.nonnegative),
        fan_in=mode.neighbours**dims,
        channel=-1 - dims,
    )
    return LinearMap((term,))


def _resized(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    return x.new_empty([*x.shape[: x.dim() - len(matrices)], *(matrix.shape[0] for matrix in matrices)])


_LIBRARY = torch.library.Library("lrp", "FRAGMENT")
_LIBRARY.define("resize(Tensor self, Tensor[] matrices) -> Tensor")
_LIBRARY.impl("resize", along, "CompositeExplicitAutograd")
torch.library.register_fake("lrp::resize", _resized, lib=_LIBRARY)

RESIZE = torch.ops.lrp.resize.default
"""An interpolation by a matrix `[out, in]` for each of the last dims, as one map.

Decompositions write it where no op of torch's will do; it becomes matmuls before the explainer is handed out."""


@operator(
    RESIZE, kind="interpolation", channels=1, family="linear map", rule="epsilon", when=only("self"), lowered=along
)
def resize(op: Op) -> LinearMap:
    """The Kronecker product of the matrices."""
    dims = len(op.option("matrices"))
    term = Term(
        "self",
        apply=lambda x, weight: weight.apply(x),
        transpose=lambda q, weight: weight.transpose(q),
        weight=lambda: Separable((tuple(op.tensor(f"matrices.{dim}") for dim in range(dims)),), nonnegative=False),
        channel=-1 - dims,
    )
    return LinearMap((term,))


def matrix(op: Op, dim: int, dims: int) -> Tensor:
    """`[out, in]`: what the op makes of the unit vectors along one spatial dim, the others being of size 1.

    Taken from the op itself, since positions are rounded differently by dtype, number of dims and runtime.
    """

    def at_dim(value: T, other: T) -> list[T]:
        return [value if index == dim else other for index in range(dims)]

    size = op.shape("input")[2 + dim]
    index = torch.arange(size, device=op.device("input"))
    basis = (index.unsqueeze(-1) == index).to(op.dtype("input"))
    options = {
        name: op.option(name) for name in ("output_size", "scale_factors", "align_corners") if name in op.arguments
    }
    for name, other in (("output_size", 1), ("scale_factors", 1.0)):
        options[name] = None if options[name] is None else at_dim(options[name][dim], other)
    made: Tensor = op.target(basis.reshape(1, size, *at_dim(size, 1)), **options)
    return made.reshape(size, -1).t()


def repetitions(op: Op, dims: int) -> list[int]:
    """How often each element occurs in a row, if that is a power of two (others are subject to rounding), else 0."""
    factors = op.option("scale_factors") or [None] * dims
    sizes = zip(op.shape("input")[2:], op.output_shape[2:], factors, strict=True)
    return [_repeated(known_size(size), known_size(want), factor) for size, want, factor in sizes]


def _repeated(size: int | None, wanted: int | None, factor: float | None) -> int:
    if factor is not None:
        times = int(factor) if factor == int(factor) else 0
    else:
        times = 0 if size is None or wanted is None or wanted % size else wanted // size
    return times if times > 0 and times & (times - 1) == 0 else 0


def blocks(op: Op, repeats: Sequence[int]) -> Term:
    """Every element repeated: the transpose sums over blocks."""

    def transpose(q: Tensor, weight: Weight) -> Tensor:
        for dim, times in enumerate(repeats, start=2):
            if times > 1:
                q = q.unflatten(dim, (-1, times)).sum(dim + 1)
        return scaled(q, weight)

    def apply(x: Tensor, weight: Weight) -> Tensor:
        return scaled(op.target(x, op.option("output_size"), op.option("scale_factors")), weight)

    return Term("input", apply=apply, transpose=transpose, channel=-1 - len(repeats))
