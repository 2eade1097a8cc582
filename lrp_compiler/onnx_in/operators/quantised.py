"""Whole numbers that stand for others: x ≈ (q − zero point) · scale.

Relevance passes a quantisation by the identity rule, since it is an elementwise function that is nearly x. What is
stored as whole numbers stays so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op
from ..tensors import SMALL, dtype_of
from .convolution import conv

BOUNDS = {
    torch.int8: (-128, 127),
    torch.uint8: (0, 255),
    torch.int16: (-32768, 32767),
    torch.uint16: (0, 65535),
    torch.int32: (-(1 << 31), (1 << 31) - 1),
}
"""dtype → least and greatest."""
NARROW = {16: (-8, 7), 15: (0, 15), 22: (0, 15), 21: (0, 15)}
BITS_BOUNDS = {"INT4": (-8, 7), "UINT4": (0, 15), "INT2": (-2, 1), "UINT2": (0, 3)}


@onnx_op("QuantizeLinear", fold=False)
def quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """`clamp(round(x / scale) + zero)`, as whole numbers."""
    dtype = (
        zero.dtype if zero is not None else dtype_of(output_dtype, "A QuantizeLinear") if output_dtype else torch.uint8
    )
    wide = x if x.dtype == torch.float64 else x.float()
    scaled = wide / aligned(scale, x, axis, block_size).to(wide.dtype)
    if dtype not in BOUNDS:
        return (
            scaled.to(dtype) if zero is None else (scaled + aligned(zero, x, axis, block_size).to(wide.dtype)).to(dtype)
        )
    low, high = bounds_of(dtype, output_dtype)
    whole = torch.round(scaled)
    if zero is not None:
        whole = whole + aligned(zero, x, axis, block_size).to(wide.dtype)
    return whole.clamp(low, high).to(dtype)


def bounds_of(dtype: torch.dtype, number: int = 0) -> tuple[int, int]:
    """Least and greatest of a dtype of ONNX, by its number where torch has a wider one for it."""
    if number in SMALL:
        from onnx import TensorProto

        return BITS_BOUNDS[TensorProto.DataType.Name(number)]
    return BOUNDS[dtype]


@onnx_op("DequantizeLinear", fold=False)
def dequantize(
    q: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    """`(q − zero) · scale`."""
    dtype = dtype_of(output_dtype, "A DequantizeLinear") if output_dtype else scale.dtype
    wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    values = q.to(wide)
    if zero is not None and not (zero.numel() == 1 and not zero.dim() and _is_zero(zero)):
        values = values - aligned(zero, q, axis, block_size).to(wide)
    return (values * aligned(scale, q, axis, block_size).to(wide)).to(dtype)


def _is_zero(zero: Tensor) -> bool:
    return False


def aligned(value: Tensor, x: Tensor, axis: int, block: int = 0) -> Tensor:
    """A scale or zero point in a shape that broadcasts with the tensor: for all of it, for each channel or block."""
    if value.numel() == 1 and value.dim() < 2:
        return value.reshape(())
    if not block:
        shape = [1] * x.dim()
        shape[axis] = -1
        return value.reshape(shape)
    dim = axis % x.dim()
    return value.repeat_interleave(block, dim).narrow(dim, 0, x.shape[dim])


@onnx_op("DynamicQuantizeLinear")
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8, by the least and the greatest value that there is; with scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / safe).clamp(0, 255))
    whole = (torch.round(x / safe) + zero).clamp(0, 255)
    return whole.to(torch.uint8), scale, zero.to(torch.uint8)


@onnx_op("ConvInteger")
def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """A convolution of whole numbers, less their zero points."""
    options: dict[str, Any] = {
        "auto_pad": auto_pad,
        "dilations": dilations,
        "group": group,
        "pads": pads,
        "strides": strides,
    }
    return conv(_less(x, x_zero, 1), _less(weight, w_zero, 0), **options).round().to(torch.int32)


@onnx_op("MatMulInteger")
def matmul_integer(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    """A product of whole numbers, less their zero points."""
    return torch.matmul(_less(a, a_zero, -2), _less(b, b_zero, -1)).round().to(torch.int32)


def _less(q: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Whole numbers less their zero point, in float64, which holds every sum of their products."""
    values = q.to(torch.float64)
    if zero is None:
        return values
    return values - (zero if zero.dim() > 1 else aligned(zero, q, axis)).to(torch.float64)


def requantized(y: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype, axis: int = 1) -> Tensor:
    """A float as whole numbers of a dtype."""
    low, high = BOUNDS[dtype]
    whole = torch.round(y / aligned(scale, y, axis))
    return (whole if zero is None else whole + aligned(zero, y, axis).to(y.dtype)).clamp(low, high).to(dtype)


@onnx_op("QLinearConv")
def quantised_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """A convolution between quantised tensors."""
    options: dict[str, Any] = {
        "auto_pad": auto_pad,
        "dilations": dilations,
        "group": group,
        "pads": pads,
        "strides": strides,
    }
    filters = dequantize(weight, w_scale, w_zero, axis=0)
    added = None if bias is None else bias.to(x_scale.dtype) * (x_scale * w_scale)
    y = conv(dequantize(x, x_scale, x_zero), filters, added, **options)
    return requantized(y, y_scale, y_zero, y_zero.dtype)


@onnx_op("QLinearMatMul")
def quantised_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """A product of matrices between quantised tensors."""

    def values(q: Tensor, scale: Tensor, zero: Tensor, axis: int) -> Tensor:
        if scale.dim() > 1:
            return ((q.float() - zero.float()) * scale.float()).float()
        return dequantize(q, scale.float(), zero, axis=axis)

    y = torch.matmul(values(a, a_scale, a_zero, -2), values(b, b_scale, b_zero, -1))
    return requantized(y, y_scale.float(), y_zero, y_zero.dtype, -2)
