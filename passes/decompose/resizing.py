"""Resizing with antialiasing, and of pixels: one product with a small matrix per spatial dim.

The matrix follows from the sizes: each result is the weighted mean of the inputs within the filter's support around its
centre, which is as wide as the image shrinks (torch's `_upsample_bilinear2d_aa`, `_upsample_bicubic2d_aa`; Pillow's
`Image.resize`). Pixels (uint8) are resized in whole numbers, as torch does it, with or without antialiasing: weights of
16 bits, each dim rounded, the widths first. Float64 holds these numbers exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import c_float
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.rules import RESIZE
from lrp_compiler.torch_private import OpOverload, statically_known_true

aten = torch.ops.aten

LINEAR, CUBIC = 2, 4
"""How many inputs are under a filter where nothing shrinks."""
WEIGHT_BITS = 15
MOST_BITS = 22


def triangle(x: Tensor) -> Tensor:
    """`1 − |x|` within ±1."""
    return (1 - x.abs()).clamp(min=0)


def cubic(x: Tensor, a: float = -0.5) -> Tensor:
    """R. Keys, 1981, with a = −½."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return near * (x < 1).to(x.dtype) + far * ((x >= 1) & (x < 2)).to(x.dtype)


FILTERS: dict[int, Callable[[Tensor], Tensor]] = {LINEAR: triangle, CUBIC: cubic}


def weights(
    size: Any, wanted: Any, taps: int, like: Tensor, *, corners: bool, factor: float | None, widens: bool = True
) -> Tensor:
    """`[wanted, size]`: how much of each input is in each result.

    Args:
        size: how many inputs there are.
        wanted: how many results.
        taps: `LINEAR` or `CUBIC`.
        like: has the dtype and the device.
        corners: whether the first and the last results lie on the first and the last inputs.
        factor: what the sizes are to be taken for, where it is given.
        widens: whether the filter is as wide as the image shrinks.
    """
    given = (size - 1, max(wanted - 1, 1)) if corners else (size, wanted) if factor is None else (1, factor)
    step = exact(given[0], like) / exact(given[1], like)
    if corners and wanted == 1:
        step = exact(0, like)
    shrinks = step.clamp(min=1) if widens else exact(1, like)
    support = taps / 2 * shrinks
    results, inputs = (torch.arange(count, device=like.device).to(like.dtype) for count in (wanted, size))
    centre = (step * (results + 0.5) if widens or not corners else step * results + 0.5).unsqueeze(-1)
    first, last = torch.floor(centre - support + 0.5), torch.floor(centre + support + 0.5)
    within = ((inputs >= first) & (inputs < last)).to(like.dtype)
    shares = FILTERS[taps]((inputs - centre + 0.5) / shrinks) * within
    return shares / shares.sum(-1, keepdim=True)


def exact(number: Any, like: Tensor) -> Tensor:
    """A number in that dtype; of float64 as a sum of two in single precision, the most that ONNX has of a number."""
    if not isinstance(number, float):
        return torch.scalar_tensor(number, dtype=like.dtype, device=like.device)
    high = c_float(number).value
    made = torch.scalar_tensor(high, dtype=like.dtype, device=like.device)
    return made + c_float(number - high).value


def antialiased(taps: int) -> Callable[..., Tensor]:
    """Resizing of images `[batch, channels, height, width]`."""

    def resized(
        x: Tensor,
        output_size: Sequence[object],
        align_corners: bool,
        scales_h: float | None = None,
        scales_w: float | None = None,
    ) -> Tensor:
        pixels = x.dtype is torch.uint8
        like = x.to(torch.float64) if pixels else x
        tall, wide = (
            weights(size, wanted, taps, like, corners=align_corners, factor=factor)
            for size, wanted, factor in zip(x.shape[-2:], output_size, (scales_h, scales_w), strict=True)
        )
        if not pixels:
            images: Tensor = RESIZE(x, [tall, wide])
            return images
        return of_pixels(like, tall, wide)

    return resized


def bilinear(
    x: Tensor, output_size: Sequence[Any] | None, align_corners: bool, scale_factors: Sequence[float] | None = None
) -> Any:
    """Without antialiasing, of pixels; of floats there is an operator."""
    if x.dtype is not torch.uint8:
        return NotImplemented
    like, factors = x.to(torch.float64), scale_factors or (None, None)
    sizes = [int(size * factor) for size, factor in zip(x.shape[-2:], factors, strict=True) if factor]
    tall, wide = (
        weights(size, wanted, LINEAR, like, corners=align_corners, factor=factor, widens=False)
        for size, wanted, factor in zip(x.shape[-2:], output_size or sizes, factors, strict=True)
    )
    return of_pixels(like, tall, wide)


def of_pixels(x: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """Both dims, those that change."""
    if not statically_known_true(wide.shape[0] == wide.shape[1]):
        x = line_of_pixels(x, wide)
    if not statically_known_true(tall.shape[0] == tall.shape[1]):
        x = line_of_pixels(x.transpose(-1, -2), tall).transpose(-1, -2)
    return x.to(torch.uint8)


def line_of_pixels(x: Tensor, matrix: Tensor) -> Tensor:
    """The last dim resized in whole numbers, which are rounded to pixels."""
    scale = precision(matrix)
    whole = RESIZE(x, [rounded(matrix * scale)])
    return torch.floor((whole + scale / 2) / scale).clamp(0, 255)


def precision(matrix: Tensor) -> Tensor:
    """The power of two that the weights are multiplied by: the largest for which they have 16 bits, signs included."""
    powers = 2.0 ** torch.arange(1, MOST_BITS + 1, device=matrix.device, dtype=matrix.dtype)
    fits = torch.floor(matrix.max() * powers + 0.5) < 2**WEIGHT_BITS
    power: Tensor = 2.0 ** fits.to(matrix.dtype).sum()
    return power


def rounded(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from 0."""
    return torch.floor(x.abs() + 0.5) * ((x >= 0).to(x.dtype) * 2 - 1)


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten._upsample_bilinear2d_aa.default: antialiased(LINEAR),
    aten._upsample_bicubic2d_aa.default: antialiased(CUBIC),
    aten.upsample_bilinear2d.vec: bilinear,
}
