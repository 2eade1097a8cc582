"""Interpolation: upsampling and resizing by nearest, linear and cubic weights, as a linear map for each spatial dim.

The map is the Kronecker product of one small matrix per dim, `W = A ⊗ B ⊗ …`, of shape `[out, in]` each. What the rules
need of W follows from the matrices: `|W| = |A| ⊗ |B|`, `W² = A² ⊗ B²`, `W⁺ = A⁺ ⊗ B⁺ + A⁻ ⊗ B⁻`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from .linear_map import LinearMap, Term, add_up, clamp_sign, scaled, sign_parts, support
from .op import Op, only
from .registry import operator
from .relevance import as_int

aten = torch.ops.aten
Size = int | torch.SymInt


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
        return add_up([_along(x, factors) for factors in self.products])

    def transpose(self, q: Tensor) -> Tensor:
        """`Wᵀ q`, over the last dims."""
        return add_up([_along(q, [matrix.t() for matrix in factors]) for factors in self.products])


@sign_parts.register(Separable)
def _(weight: Separable) -> dict[int, Any]:
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


def _along(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Each matrix `[to, from]` applied along its dim, the last dims in order."""
    for dim, matrix in enumerate(factors, start=-len(factors)):
        if dim == -1:
            x = torch.matmul(x, matrix.t())
        elif dim == -2:
            x = torch.matmul(matrix, x)
        else:
            x = torch.matmul(x.transpose(dim, -1), matrix.t()).transpose(dim, -1)
    return x


@dataclass(frozen=True)
class Axis:
    """One spatial dim that is resized: `size` elements to `want`, by a given scale factor or by what the sizes say."""

    size: Size
    want: Size
    factor: float | None
    align: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def step(self) -> Any:
        """Distance of two results, in elements of the input."""
        return 1.0 / self.factor if self.factor else self.size / self.want

    def range(self, count: Size, dtype: torch.dtype) -> Tensor:
        """0, 1, … count − 1."""
        return torch.arange(count, dtype=dtype, device=self.device)

    def positions(self) -> Tensor:
        """Where each result lies between the elements of the input; float32 at least."""
        rows = self.range(self.want, torch.promote_types(self.dtype, torch.float32))
        if self.align:
            return rows * ((self.size - 1) / (self.want - 1) if self.want > 1 else 0.0)
        return (rows + 0.5) * self.step - 0.5

    def at(self, index: Tensor) -> Tensor:
        """`[want, size]`: 1 where the row's index is the column, indices beyond the border taken at the border."""
        clamped = index.clamp(min=0, max=self.size - 1).unsqueeze(-1)
        return (clamped == self.range(self.size, index.dtype)).to(index.dtype)


Matrix = Callable[[Axis], Tensor]
"""Axis → `[want, size]`."""


def nearest(axis: Axis) -> Tensor:
    """Element ⌊i · size/want⌋, in float32 as torch computes it (and exactly where sizes are equal or double)."""
    exact = statically_known_true(axis.size == axis.want) or statically_known_true(axis.want == 2 * axis.size)
    step = axis.size / axis.want if exact else axis.step
    return axis.at((axis.range(axis.want, torch.float32) * step).floor())


def nearest_exact(axis: Axis) -> Tensor:
    """Element ⌊(i + ½) · size/want⌋, in float32 as torch computes it."""
    return axis.at(((axis.range(axis.want, torch.float32) + 0.5) * axis.step).floor())


def linear(axis: Axis) -> Tensor:
    """The hat function around each position, positions clamped to the border."""
    position = axis.positions().clamp(min=0, max=axis.size - 1)
    return (1 - (position.unsqueeze(-1) - axis.range(axis.size, position.dtype)).abs()).clamp(min=0)


def cubic(axis: Axis) -> Tensor:
    """Keys' cubic convolution with a = −¾ over four neighbours."""
    position = axis.positions()
    first = position.floor().clamp(max=axis.size - 1)
    t = (position - first).clamp(min=0, max=1)
    weights = (_outer_cubic(t + 1), _inner_cubic(t), _inner_cubic(1 - t), _outer_cubic(2 - t))
    return add_up([weight.unsqueeze(-1) * axis.at(first + offset) for offset, weight in enumerate(weights, start=-1)])


CUBIC = -0.75
"""a, as torch has it."""


def _inner_cubic(t: Tensor) -> Tensor:
    return ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1


def _outer_cubic(t: Tensor) -> Tensor:
    return ((CUBIC * t - 5 * CUBIC) * t + 8 * CUBIC) * t - 4 * CUBIC


@dataclass(frozen=True)
class Mode:
    """How the weights of one dim are made, how many make one result, and whether they are ≥ 0."""

    matrix: Matrix
    neighbours: int
    nonnegative: bool = True


NEAREST, NEAREST_EXACT, LINEAR = Mode(nearest, 1), Mode(nearest_exact, 1), Mode(linear, 2)
MODES: dict[Any, Mode] = {
    aten.upsample_nearest1d.vec: NEAREST,
    aten.upsample_nearest2d.vec: NEAREST,
    aten.upsample_nearest3d.vec: NEAREST,
    aten._upsample_nearest_exact1d.vec: NEAREST_EXACT,
    aten._upsample_nearest_exact2d.vec: NEAREST_EXACT,
    aten._upsample_nearest_exact3d.vec: NEAREST_EXACT,
    aten.upsample_linear1d.vec: LINEAR,
    aten.upsample_bilinear2d.vec: LINEAR,
    aten.upsample_trilinear3d.vec: LINEAR,
    aten.upsample_bicubic2d.vec: Mode(cubic, 4, nonnegative=False),
}


@operator(*MODES, kind="interpolation", family="linear map", rule="epsilon", when=only("input"))
def interpolation(op: Op) -> LinearMap:
    """`torch.nn.functional.interpolate` without antialiasing ("area" arrives as an adaptive average pool)."""
    mode = MODES[op.target]
    sizes, wants = op.shape("input")[2:], op.output_shape[2:]
    channel = -1 - len(sizes)
    factors = op.option("scale_factors") or [None] * len(sizes)
    repeats = [repeated(*dim) for dim in zip(sizes, wants, factors, strict=True)]
    if mode.neighbours == 1 and all(repeats):
        return LinearMap((blocks(op, repeats, channel),))
    options = bool(op.arguments.get("align_corners")), op.dtype("input"), op.device("input")

    def weight() -> Separable:
        axes = [Axis(*dim, *options) for dim in zip(sizes, wants, factors, strict=True)]
        return Separable((tuple(mode.matrix(axis).to(axis.dtype) for axis in axes),), mode.nonnegative)

    term = Term(
        "input",
        apply=lambda x, weight: weight.apply(x),
        transpose=lambda q, weight: weight.transpose(q),
        weight=weight,
        fan_in=mode.neighbours ** len(sizes),
        channel=channel,
    )
    return LinearMap((term,))


def repeated(size: Size, want: Size, factor: float | None) -> int:
    """How often each element occurs in a row if that is a power of two (others are subject to rounding), else 0."""
    known, wanted = as_int(size), as_int(want)
    if factor is None:
        times = 0 if known is None or wanted is None or wanted % known else wanted // known
    else:
        times = int(factor) if factor == int(factor) else 0
    return times if times > 0 and times & (times - 1) == 0 else 0


def blocks(op: Op, repeats: Sequence[int], channel: int) -> Term:
    """Every element repeated: the transpose sums over blocks."""

    def transpose(q: Tensor, weight: Any) -> Tensor:
        for dim, times in enumerate(repeats, start=2):
            if times > 1:
                q = q.unflatten(dim, (-1, times)).sum(dim + 1)
        return scaled(q, weight)

    def apply(x: Tensor, weight: Any) -> Tensor:
        return scaled(op.target(x, op.option("output_size"), op.option("scale_factors")), weight)

    return Term("input", apply=apply, transpose=transpose, channel=channel)
