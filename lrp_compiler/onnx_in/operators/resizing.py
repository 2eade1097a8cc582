"""Maps in other sizes.

Where torch has the same interpolation its own op is taken. Every other is, along each axis, a matrix: which elements,
by which weights, make one of the result.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lrp_compiler.base.errors import LrpWarning
from lrp_compiler.torch_private import statically_known_true

from ..registry import chosen, onnx_op
from ..sizes import Sizes

LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
"""Rank → torch's name."""
CROPPING = "tf_crop_and_resize"
"""The one way of coordinates that takes a region of the input."""
LARGEST = 1 << 16
"""The largest size of which it is known that whole numbers give what single precision does."""
DENOMINATORS = (10, 100, 1000, 4096, 1 << 24)
"""What fractions are divided by at most: the simplest that gives the same is taken."""


class Mode(NamedTuple):
    """How values between elements are made."""

    kind: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    extrapolation: float = 0.0
    antialias: bool = False


@onnx_op("Upsample", since=7)
def upsample_attributes(x: Tensor, *, scales: list[float], mode: str = "nearest") -> Tensor:
    """Larger by these factors (until opset 8)."""
    return _resized(x, list(scales), None, list(range(x.dim())), Mode(mode, "asymmetric", "floor"), [])


@onnx_op("Upsample", since=9)
def upsample(x: Tensor, scales: Sizes, *, mode: str = "nearest") -> Tensor:
    """Larger by these factors."""
    return upsample_attributes(x, scales=scales.list(), mode=mode)


@onnx_op("Resize", since=10)
def resize_by_scales(x: Tensor, scales: Sizes, *, mode: str = "nearest") -> Tensor:
    """Larger or smaller by these factors (opset 10); smaller, the nearest is the next one."""
    factors, dims = scales.list(), list(range(x.dim()))
    fewer = [dim for dim in dims if isinstance(factors[dim], float | int) and factors[dim] < 1 and mode == "nearest"]
    more = [dim for dim in dims if dim not in fewer]
    for nearest, some in (("ceil", fewer), ("floor", more)):
        x = _resized(x, [factors[dim] for dim in some], None, some, Mode(mode, "asymmetric", nearest), [])
    return x


@onnx_op("Resize", since=11)
def resize(
    x: Tensor,
    roi: Sizes | None = None,
    scales: Sizes | None = None,
    sizes: Sizes | None = None,
    *,
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """By factors or to sizes, along some axes or all."""
    dims = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    how = Mode(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        extrapolation_value,
        bool(antialias),
    )
    # Of other modes a region says nothing, though files give one.
    region = roi.list() if roi is not None and coordinate_transformation_mode == CROPPING else []
    if sizes is None or not sizes.list():
        factors = scales.list() if scales is not None else []
        return _resized(x, factors, None, dims, how, region)
    wanted = sizes.list()
    if keep_aspect_ratio_policy == "stretch":
        return _resized(x, None, wanted, dims, how, region)
    choose = min if keep_aspect_ratio_policy == "not_larger" else max
    factor = choose(size / x.shape[dim] for size, dim in zip(wanted, dims, strict=True))
    factors = [factor] * len(dims)
    return _resized(x, factors, [math.floor(x.shape[dim] * factor + 0.5) for dim in dims], dims, how, region)


def _resized(
    x: Tensor, factors: list[Any] | None, sizes: list[Any] | None, dims: list[int], how: Mode, region: list[Any]
) -> Tensor:
    if sizes is None:
        assert factors is not None
        sizes = [_scaled(x.shape[dim], factor) for dim, factor in zip(dims, factors, strict=True)]
    if factors is None:
        # An open size that stays what it is must be seen to do so: `b / b` is a number that is known in the run alone.
        factors = [
            1.0 if statically_known_true(size == x.shape[dim]) else size / x.shape[dim]
            for size, dim in zip(sizes, dims, strict=True)
        ]
    changed = [
        k
        for k, dim in enumerate(dims)
        if how.coordinates == CROPPING
        or not (isinstance(sizes[k], int) and isinstance(x.shape[dim], int) and sizes[k] == x.shape[dim])
        or factors[k] != 1
    ]
    whole = [not region or (region[k], region[k + len(dims)]) == (0, 1) for k in range(len(dims))]
    changed = [k for k in changed if not (isinstance(factors[k], float | int) and factors[k] == 1 and whole[k])]
    if not changed:
        return x
    same = _by_torch(x, [dims[k] for k in changed], [sizes[k] for k in changed], [factors[k] for k in changed], how)
    if same is not None:
        return same
    for k in changed:
        ends = (region[k], region[k + len(dims)]) if region else (0.0, 1.0)
        x = _along(x, dims[k], sizes[k], factors[k], how, ends)
    return x


def _scaled(size: Any, factor: Any) -> Any:
    """How many elements so many become: the product rounded down, as runtimes work it out in single precision."""
    if not isinstance(factor, float):
        return torch.sym_int(math.floor(size * factor))
    if isinstance(size, int):
        return int(np.float32(size) * np.float32(factor))
    part, odd = _fraction(factor)
    if odd is not None:
        warnings.warn(
            f"A Resize by {factor:.6g} makes another number of elements of {odd} than a runtime does, which rounds "
            "the product in float32, and so of some larger sizes: export the model with sizes, or an open size that "
            f"stays below {odd}.",
            LrpWarning,
            stacklevel=2,
        )
    return size * part.numerator // part.denominator


@cache
def _fraction(factor: float) -> tuple[Fraction, int | None]:
    """The fraction by which whole numbers give what single precision gives, and the first size where they do not."""
    sizes = np.arange(1, LARGEST + 1)
    wanted = (sizes.astype(np.float32) * np.float32(factor)).astype(np.int64)
    first: dict[Fraction, int] = {}
    for most in DENOMINATORS:
        part = Fraction(factor).limit_denominator(most)
        wrong = np.flatnonzero(sizes * part.numerator // part.denominator != wanted)
        if not wrong.size:
            return part, None
        first[part] = int(sizes[wrong[0]])
    best = max(first, key=lambda part: first[part])
    return best, first[best]


def _by_torch(x: Tensor, dims: list[int], sizes: list[Any], factors: list[Any], how: Mode) -> Tensor | None:
    """Torch's own interpolation of all of space, if it is the same."""
    if not 3 <= x.dim() <= 5 or min(dims) < 2 or how.antialias or not x.is_floating_point():
        return None
    known = dict(zip(dims, sizes, strict=True))
    space = [known.get(dim, x.shape[dim]) for dim in range(2, x.dim())]
    exact = all(_is_exact(x.shape[dim], size, f) for dim, size, f in zip(dims, sizes, factors, strict=True))
    half = how.coordinates in ("half_pixel", "pytorch_half_pixel") and exact
    longer = how.coordinates == "half_pixel" or all(isinstance(size, int) and size > 1 for size in space)
    corners = exact and how.coordinates == "align_corners" and all(isinstance(size, int) and size > 1 for size in space)
    if how.kind == "nearest" and how.coordinates == "asymmetric" and how.nearest == "floor" and exact:
        return F.interpolate(x, space, mode="nearest")
    if how.kind == "linear" and ((half and longer) or corners):
        return F.interpolate(x, space, mode=LINEAR[x.dim()], align_corners=corners)
    plain = how.cubic == -0.75 and not how.exclude_outside and x.dim() == 4
    if how.kind == "cubic" and plain and ((half and longer) or corners):
        return F.interpolate(x, space, mode="bicubic", align_corners=corners)
    return None


def _is_exact(size: Any, wanted: Any, factor: Any) -> bool:
    """Whether the factor is the ratio of the sizes, which torch goes by."""
    if isinstance(size, int) and isinstance(wanted, int):
        return abs(size * factor - wanted) < 1e-5 * wanted
    return not isinstance(factor, float) or factor.is_integer()


def _along(x: Tensor, dim: int, size: Any, factor: Any, how: Mode, ends: tuple[Any, Any]) -> Tensor:
    length = x.shape[dim]
    kind = x.dtype if x.dtype == torch.float64 else torch.float32
    at = chosen(COORDINATES, how.coordinates, "The coordinate_transformation_mode of a Resize")(
        torch.arange(size, dtype=kind), length, size, factor, ends
    )
    if how.kind == "nearest":
        places = chosen(NEAREST, how.nearest, "The nearest_mode of a Resize")(at).to(torch.int64).clamp(0, length - 1)
        result = x.index_select(dim, places)
    else:
        matrix = _weights(at, length, factor, how).to(kind)
        moved = torch.matmul(x.to(kind).movedim(dim, -1), matrix.transpose(0, 1)).movedim(-1, dim)
        result = moved.to(x.dtype) if x.is_floating_point() else moved.round().to(x.dtype)
    if how.coordinates != CROPPING:
        return result
    outside = ((at < 0) | (at > length - 1)).reshape([-1 if k == dim else 1 for k in range(x.dim())])
    return torch.where(outside, torch.full((), how.extrapolation, dtype=x.dtype), result)


def _half_pixel_symmetric(at: Tensor, length: Any, size: Any, factor: Any, ends: Any) -> Tensor:
    adjusted = size / (factor * length)
    centre = length / 2
    return centre * (1 - adjusted) + (at + 0.5) / factor - 0.5


def _crop(at: Tensor, length: Any, size: Any, factor: Any, ends: tuple[Any, Any]) -> Tensor:
    start, end = ends
    if isinstance(size, int) and size == 1:
        return torch.full_like(at, 0.5 * (start + end) * (length - 1))
    return start * (length - 1) + at * (end - start) * (length - 1) / (factor * length - 1)


COORDINATES: dict[str, Callable[[Tensor, Any, Any, Any, tuple[Any, Any]], Tensor]] = {
    "half_pixel": lambda at, length, size, factor, ends: (at + 0.5) / factor - 0.5,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": lambda at, length, size, factor, ends: (
        torch.zeros_like(at) if isinstance(size, int) and size == 1 else (at + 0.5) / factor - 0.5
    ),
    "align_corners": lambda at, length, size, factor, ends: (
        torch.zeros_like(at) if isinstance(size, int) and size == 1 else at * (length - 1) / (factor * length - 1)
    ),
    "asymmetric": lambda at, length, size, factor, ends: at / factor,
    "tf_half_pixel_for_nn": lambda at, length, size, factor, ends: (at + 0.5) / factor,
    CROPPING: _crop,
}
"""Where in the input an element of the result lies."""
NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _linear(distance: Tensor, how: Mode) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor, how: Mode) -> Tensor:
    far, a = distance.abs(), how.cubic
    near = (a + 2) * far**3 - (a + 3) * far**2 + 1
    beyond = a * far**3 - 5 * a * far**2 + 8 * a * far - 4 * a
    return torch.where(far <= 1, near, torch.where(far < 2, beyond, torch.zeros_like(far)))


KERNELS: dict[str, tuple[Callable[[Tensor, Mode], Tensor], int]] = {"linear": (_linear, 1), "cubic": (_cubic, 2)}
"""Mode → weight by distance, and how far it reaches."""


def _weights(at: Tensor, length: Any, factor: Any, how: Mode) -> Tensor:
    """`[size, length]`: by which weight each element counts. What lies beyond the ends counts as the last element."""
    kernel, reach = chosen(KERNELS, how.kind, "The mode of a Resize")
    squeeze = min(factor, 1.0) if how.antialias and not isinstance(factor, torch.SymFloat) else 1.0
    reach = math.ceil(reach / squeeze)
    first = torch.floor(at) - reach + (0 if how.antialias else 1)
    taps = first.unsqueeze(1) + torch.arange(2 * reach + (1 if how.antialias else 0), dtype=at.dtype)
    weights = kernel((at.unsqueeze(1) - taps) * squeeze, how)
    if how.exclude_outside:
        weights = torch.where((taps < 0) | (taps > length - 1), torch.zeros_like(weights), weights)
    weights = weights / weights.sum(1, keepdim=True)
    places = taps.clamp(0, length - 1)
    hits = (places.unsqueeze(2) == torch.arange(length, dtype=at.dtype)).to(at.dtype)
    return (weights.unsqueeze(2) * hits).sum(1)
