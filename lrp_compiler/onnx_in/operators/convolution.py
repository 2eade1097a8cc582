"""Convolutions, and their transposes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import onnx_op

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@onnx_op("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """A convolution of one to three dims of space."""
    rank = weight.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    around = padding(x.shape[2:], list(weight.shape[2:]), strides, dilations, pads, auto_pad)
    x, padded = padded_evenly(x, around)
    return CONVOLUTIONS[rank](x, weight, bias, strides, padded, dilations, group)


def padding(
    sizes: Any, kernel: list[int], strides: list[int], dilations: list[int], pads: list[int] | None, auto_pad: str
) -> list[Any]:
    """What is added in front of each dim of space, then behind each, as ONNX lists it."""
    rank = len(kernel)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        before, behind = [], []
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            reach = (width - 1) * dilation + 1
            total = (
                reach - 1
                if stride == 1
                else torch.sym_max(((size + stride - 1) // stride - 1) * stride + reach - size, 0)
            )
            half = total // 2
            before.append(half if auto_pad == "SAME_UPPER" else total - half)
            behind.append(total - before[-1])
        return before + behind
    return [0] * (2 * rank) if auto_pad == "VALID" or not pads else pads


def padded_evenly(x: Tensor, around: list[Any], value: float = 0.0) -> tuple[Tensor, list[Any]]:
    """The tensor, padded itself where both ends of a dim differ, and what is left to pad at either end."""
    rank = len(around) // 2
    before, behind = around[:rank], around[rank:]
    even = all(isinstance(one, int) for one in around) and before == behind and min(before, default=0) >= 0
    return (x, before) if even else (pad_space(x, before, behind, value), [0] * rank)


def pad_space(x: Tensor, before: list[Any], behind: list[Any], value: float = 0.0) -> Tensor:
    """With this many elements in front of and behind the last dims."""
    if all(isinstance(one, int) and one == 0 for one in [*before, *behind]):
        return x
    pairs = [size for pair in reversed(list(zip(before, behind, strict=True))) for size in pair]
    return F.pad(x, pairs, value=value)


@onnx_op("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The transpose of a convolution."""
    rank = weight.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    added = output_padding or [0] * rank
    pads = pads or [0] * (2 * rank)
    if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        sizes = output_shape or [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        pads = _cut(x, weight, sizes[-rank:], strides, dilations, added, auto_pad)
    before, behind = pads[:rank], pads[rank:]
    run = TRANSPOSED[rank]
    fits = all(extra < max(stride, dilation) for extra, stride, dilation in zip(added, strides, dilations, strict=True))
    if all(isinstance(one, int) for one in pads) and before == behind and min(before, default=0) >= 0 and fits:
        return run(x, weight, bias, strides, before, added, group, dilations)
    whole = run(x, weight, None, strides, 0, 0, group, dilations)
    changed = [extra - one for extra, one in zip(added, behind, strict=True)]
    cut = pad_space(whole, [-one for one in before], changed)
    return cut if bias is None else cut + bias.reshape(-1, *[1] * rank)


def _cut(
    x: Tensor, weight: Tensor, sizes: list[Any], strides: list[int], dilations: list[int], added: list[int], auto: str
) -> list[Any]:
    """What is cut off in front of and behind each dim, for the result to have these sizes."""
    before, behind = [], []
    dims = zip(x.shape[2:], weight.shape[2:], sizes, strides, dilations, added, strict=True)
    for size, width, wanted, stride, dilation, extra in dims:
        total = stride * (size - 1) + extra + (width - 1) * dilation + 1 - wanted
        # What is more than there is comes behind.
        most = max(total, 0) if isinstance(total, int) else torch.sym_max(total, 0)
        half = most // 2
        before.append(half if auto == "SAME_UPPER" else most - half)
        behind.append(total - before[-1])
    return before + behind


@onnx_op("DeformConv")
def deformable_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    offset_group: int = 1,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """A convolution whose taps are moved by offsets, and looked up bilinearly (Dai et al., 2017)."""
    (batch, channels, height, width), (outs, _, high, wide) = x.shape, weight.shape
    strides, dilations, pads = strides or [1, 1], dilations or [1, 1], pads or [0, 0, 0, 0]
    rows, columns = offset.shape[2:]
    taps = high * wide
    moved = offset.reshape(batch, offset_group, taps, 2, rows, columns)
    base_y = torch.arange(rows, dtype=x.dtype).reshape(-1, 1) * strides[0] - pads[0]
    base_x = torch.arange(columns, dtype=x.dtype) * strides[1] - pads[1]
    tap_y = (torch.arange(high, dtype=x.dtype) * dilations[0]).repeat_interleave(wide).reshape(-1, 1, 1)
    tap_x = (torch.arange(wide, dtype=x.dtype) * dilations[1]).repeat(high).reshape(-1, 1, 1)
    y = moved[:, :, :, 0] + base_y + tap_y
    along = moved[:, :, :, 1] + base_x + tap_x
    grid = torch.stack([(2 * along + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    parts = x.reshape(batch * offset_group, channels // offset_group, height, width)
    flat = grid.reshape(batch * offset_group, taps * rows, columns, 2)
    found = F.grid_sample(parts, flat, align_corners=False).reshape(batch, offset_group, -1, taps, rows, columns)
    if mask is not None:
        found = found * mask.reshape(batch, offset_group, 1, taps, rows, columns)
    columns_of = found.reshape(batch, group, channels // group * taps, rows * columns)
    kernel = weight.reshape(group, outs // group, channels // group * taps)
    result = torch.matmul(kernel, columns_of).reshape(batch, outs, rows, columns)
    return result if bias is None else result + bias.reshape(-1, 1, 1)
