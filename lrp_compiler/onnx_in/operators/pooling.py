"""Windows of which one number is made."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import onnx_op
from ..sizes import Sizes
from .convolution import CONVOLUTIONS, pad_space, padding

MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@onnx_op("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
    outputs: int = 1,
) -> Any:
    """The largest of each window, and where it was found."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    around = padding(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    before, behind = around[:rank], around[rank:]
    wide = x if x.is_floating_point() else x.double()
    even = before == behind and all(
        isinstance(size, int) and size * 2 <= width for size, width in zip(before, kernel_shape, strict=True)
    )
    if not even and ceil_mode:
        behind = _to_last_window(x.shape[2:], kernel_shape, strides, dilations, around)
    cut = [0] * rank if even else before
    given = wide if even else pad_space(wide, before, behind, float("-inf"))
    options = (kernel_shape, strides, before if even else 0, dilations, bool(ceil_mode) and even)
    if outputs == 1:
        return MAX_POOLS[rank](given, *options).to(x.dtype)
    values, places = MAX_POOLS[rank](given, *options, return_indices=True)
    return values.to(x.dtype), _global(places, x.shape, given.shape[2:], cut, storage_order)


def _to_last_window(
    sizes: Any, kernel: list[int], strides: list[int], dilations: list[int], around: list[Any]
) -> list[Any]:
    """How much is behind each dim, up to the end of the last window of `ceil_mode`; it may be less than was added.

    A window that starts in what is added behind is none.
    """
    rank = len(kernel)
    ends = []
    for k, size in enumerate(sizes):
        before, behind = around[k], around[k + rank]
        reach = (kernel[k] - 1) * dilations[k] + 1
        steps = (size + before + behind - reach + strides[k] - 1) // strides[k]
        # Where so little is added that no window can start there, an open size needs no comparison.
        if not isinstance(behind, int) or behind + strides[k] > reach:
            steps = torch.sym_min(steps, (size + before - 1) // strides[k])
        ends.append(steps * strides[k] + reach - size - before)
    return ends


def _global(places: Tensor, shape: Any, padded: Any, cut: list[Any], column_major: int) -> Tensor:
    """Places in a padded plane as places in the whole tensor."""
    coordinates = []
    for size, before in zip(reversed(padded), reversed(cut), strict=True):
        coordinates.append(places % size - before)
        places = places // size
    space = list(shape[2:])
    within: Any = 0
    forwards = zip(reversed(coordinates), space, strict=True)
    backwards = zip(coordinates, reversed(space), strict=True)
    for coordinate, size in backwards if column_major else forwards:
        within = within * size + coordinate
    planes = torch.arange(shape[0] * shape[1]).reshape(shape[0], shape[1], *[1] * len(space))
    return within + planes * prod(space)


@onnx_op("MaxUnpool")
def max_unpool(
    x: Tensor,
    places: Tensor,
    output_shape: Sizes | None = None,
    *,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Values put back where they were found, zeros around them."""
    rank = len(kernel_shape)
    strides, pads = strides or [1] * rank, pads or [0] * (2 * rank)
    space = [
        (size - 1) * stride - pads[k] - pads[k + rank] + width
        for k, (size, stride, width) in enumerate(zip(x.shape[2:], strides, kernel_shape, strict=True))
    ]
    own = [*x.shape[:2], *space]
    flat = torch.zeros(prod(own), dtype=x.dtype).scatter(0, places.reshape(-1), x.reshape(-1)).reshape(own)
    if output_shape is None:
        return flat
    return pad_space(flat, [0] * rank, [a - b for a, b in zip(output_shape.list()[2:], space, strict=True)])


@onnx_op("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The mean of each window."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    around = padding(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    before, behind = around[:rank], around[rank:]
    even = before == behind and all(
        isinstance(size, int) and size * 2 <= width for size, width in zip(before, kernel_shape, strict=True)
    )
    if even and set(dilations) == {1}:
        return AVERAGE_POOLS[rank](
            x, kernel_shape, strides, before, ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad)
        )
    ones = torch.ones_like(x[:1, :1])
    if count_include_pad:
        ones = pad_space(ones, before, behind, 1.0)
        counted = _sums(ones, kernel_shape, strides, dilations, [0] * (2 * rank), ceil_mode, x.shape[2:], around)
    else:
        counted = _sums(ones, kernel_shape, strides, dilations, around, ceil_mode, x.shape[2:], around)
    return _sums(x, kernel_shape, strides, dilations, around, ceil_mode, x.shape[2:], around) / counted


def _sums(
    x: Tensor,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[Any],
    ceil_mode: int,
    sizes: Any,
    around: list[Any],
) -> Tensor:
    """The sum of each window: a convolution by ones."""
    rank = len(kernel)
    behind = pads[rank:]
    if ceil_mode:
        ends = _to_last_window(sizes, kernel, strides, dilations, around)
        behind = [own + end - one for own, end, one in zip(behind, ends, around[rank:], strict=True)]
    padded_x = pad_space(x, pads[:rank], behind)
    flat = padded_x.reshape(-1, 1, *padded_x.shape[2:])
    weight = torch.ones([1, 1, *kernel], dtype=x.dtype)
    result = CONVOLUTIONS[rank](flat, weight, None, strides, 0, dilations)
    return result.reshape(*x.shape[:2], *result.shape[2:])


@onnx_op("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The p-norm of each window."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    around = padding(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    sums = _sums(x.abs().pow(p), kernel_shape, strides, dilations, around, ceil_mode, x.shape[2:], around)
    return sums.pow(1 / p)


@onnx_op("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """The mean over space."""
    return x.mean(list(range(2, x.dim())), keepdim=True)


@onnx_op("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """The largest over space."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


@onnx_op("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """The p-norm over space."""
    return x.abs().pow(p).sum(list(range(2, x.dim())), keepdim=True).pow(1 / p)
