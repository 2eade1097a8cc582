"""Whole numbers that stand for others: x ≈ (q − zero point) · scale.

Relevance passes a quantisation by the identity rule, since it is an elementwise function that is nearly x. What is
stored as whole numbers stays so.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from ..registry import Known, Operand, onnx_op, scaled_form
from ..sizes import Sizes
from ..tensors import SMALL, as_dtype, dtype_of
from ..whole_numbers import Scaled, Whole, added, times
from .convolution import conv

BOUNDS = {
    torch.int8: (-128, 127),
    torch.uint8: (0, 255),
    torch.int16: (-32768, 32767),
    torch.uint16: (0, 65535),
    torch.int32: (-(1 << 31), (1 << 31) - 1),
}
"""dtype → least and greatest."""
SMALL_BOUNDS: dict[int, tuple[int, int]] = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
}
"""The same of those for which torch has a wider one."""
ZeroPoint = Sizes | Tensor | None
WATCHED: ContextVar[list[Tensor] | None] = ContextVar("watched", default=None)
"""Whoever wants to know what is rounded puts a list here, which gets the numbers before they are."""


@onnx_op("QuantizeLinear", fold=False)
def quantize(
    x: Tensor,
    scale: Operand,
    zero: Known | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Any:
    """`clamp(round(x / scale) + zero)`, as whole numbers."""
    dtype = _dtype(zero, output_dtype)
    wide = x if x.dtype == torch.float64 else x.float()
    step = _above_zero(_factor(scale, x, axis, block_size))
    return _measured(wide / step, x, zero, dtype, axis, block_size, output_dtype, saturate)


def _above_zero(step: Any) -> Any:
    """A step of 0, as pruned channels have it, as the least number: 0 / 0 is none, and everything else an end."""
    if isinstance(step, Tensor):
        return step if step.dim() == 0 else torch.where(step == 0, torch.finfo(step.dtype).tiny, step)
    return step or torch.finfo(torch.float32).tiny


def _measured(
    scaled: Tensor,
    x: Any,
    zero: ZeroPoint,
    dtype: torch.dtype,
    axis: int,
    block_size: int,
    output_dtype: int,
    saturate: int,
) -> Any:
    place = _aligned_zero(zero, x, axis, block_size)
    if dtype not in BOUNDS:
        return as_dtype(added(scaled, place), dtype, saturate)
    return rounded(scaled, place, dtype, output_dtype)


def rounded(scaled: Tensor, zero: ZeroPoint, dtype: torch.dtype, number: int = 0) -> Whole:
    """Floats as whole numbers of a dtype, those beyond its ends as these."""
    low, high = SMALL_BOUNDS[number] if number in SMALL else BOUNDS[dtype]
    watched = WATCHED.get()
    if watched is not None:
        watched.append(scaled)
    whole = torch.round(scaled)
    if zero is None or (isinstance(zero, Sizes) and not zero.shape):
        place = 0 if zero is None else zero.one()
        return Whole(whole.clamp(low - place, high - place), zero, dtype)
    place = (zero.tensor() if isinstance(zero, Sizes) else zero).to(whole.dtype)
    return Whole(torch.minimum(torch.maximum(whole, low - place), high - place), zero, dtype)


@scaled_form("QuantizeLinear")
def quantize_scaled(
    x: Any,
    scale: Any,
    zero: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Any:
    """Measured in steps of the result: one multiplication, as a runtime has it that calculates with integers."""
    if not isinstance(x, Scaled) or x.dtype != torch.float32 or isinstance(scale, Scaled):
        return NotImplemented
    factor = ratio(x.step, 1.0, _above_zero(_factor(scale, x, axis, block_size)))
    dtype = _dtype(zero, output_dtype)
    return _measured(x.values * factor, x, zero, dtype, axis, block_size, output_dtype, saturate)


def _dtype(zero: ZeroPoint, number: int) -> torch.dtype:
    if zero is not None:
        return zero.dtype
    return dtype_of(number, "A QuantizeLinear") if number else torch.uint8


@onnx_op("DequantizeLinear", fold=False)
def dequantized(
    q: Any, scale: Operand, zero: Known | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Scaled:
    """`(q − zero) · scale`, not multiplied yet."""
    kept = scale.dtype if isinstance(scale, Tensor) else torch.float32
    dtype = dtype_of(output_dtype, "A DequantizeLinear") if output_dtype else kept
    factor = _factor(scale, q, axis, block_size)
    return Scaled(less(q, _aligned_zero(zero, q, axis, block_size)), factor, dtype)


def dequantize(q: Any, scale: Operand, zero: ZeroPoint = None, *, axis: int = 1) -> Tensor:
    """The same as a tensor."""
    return dequantized(q, scale, zero, axis=axis).tensor()


def less(q: Any, zero: ZeroPoint) -> Tensor:
    """Whole numbers less their zero point, as floats."""
    if isinstance(q, Whole):
        return q.less(zero)
    stored = q.tensor() if isinstance(q, Sizes) else q
    values: Tensor = stored if stored.dtype == torch.float64 else stored.float()
    return added(values, zero, -1)


def _factor(scale: Operand, x: Any, axis: int, block: int) -> Any:
    """The scale: a number, or a tensor that broadcasts with x."""
    if not isinstance(scale, Tensor):
        return scale
    wide = scale if scale.dtype == torch.float64 else scale.float()
    return aligned(wide, x.shape, axis, block)


def _aligned_zero(zero: ZeroPoint, x: Any, axis: int, block: int = 0) -> ZeroPoint:
    """The zero point in a shape that broadcasts with x; None where it is 0."""
    if not isinstance(zero, Sizes):
        return None if zero is None else aligned(zero, x.shape, axis, block)
    if zero.dtype in BOUNDS and all(value == 0 for value in zero.list()):
        return None
    if len(zero.list()) == 1:
        return zero.with_array(zero.array.reshape(()))
    if block:
        return aligned(zero.tensor(), x.shape, axis, block)
    return zero.with_array(zero.array.reshape(_shape(len(x.shape), axis)))


def _shape(rank: int, axis: int) -> list[int]:
    return [-1 if place == axis % rank else 1 for place in range(rank)]


def aligned(value: Tensor, shape: Any, axis: int, block: int = 0) -> Tensor:
    """A scale or zero point in a shape that broadcasts with a tensor: for all of it, for each channel or block."""
    if value.dim() == 0:
        return value
    if value.numel() == 1 and value.dim() == 1:
        return value.reshape(())
    if not block:
        return value if value.dim() > 1 else value.reshape(_shape(len(shape), axis))
    dim = axis % len(shape)
    return value.repeat_interleave(block, dim).narrow(dim, 0, shape[dim])


@onnx_op("DynamicQuantizeLinear")
def dynamic_quantize(x: Tensor) -> tuple[Any, Tensor, Tensor]:
    """To uint8, by the least and the greatest value that there is; with scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = torch.where(low == high, torch.ones_like(low), (high - low) / 255)
    zero = torch.round((-low / scale).clamp(0, 255)).to(torch.uint8)
    return rounded(x / scale, zero, torch.uint8), scale, zero


@onnx_op("ConvInteger", fold=False, options_of=conv)
def conv_integer(
    x: Any,
    weight: Any,
    x_zero: Known | None = None,
    w_zero: Known | None = None,
    **options: Any,
) -> Whole:
    """A convolution of whole numbers, less their zero points."""
    given, filters = less(x, _aligned_zero(x_zero, x, 1)), less(weight, _aligned_zero(w_zero, weight, 0))
    return Whole(conv(given, filters, **options), None, torch.int32)


@onnx_op("MatMulInteger", fold=False)
def matmul_integer(a: Any, b: Any, a_zero: Known | None = None, b_zero: Known | None = None) -> Whole:
    """A product of whole numbers, less their zero points."""
    return Whole(whole_product(a, b, a_zero, b_zero), None, torch.int32)


def whole_product(a: Any, b: Any, a_zero: ZeroPoint = None, b_zero: ZeroPoint = None) -> Tensor:
    """A product of matrices of whole numbers, as floats: in double precision where single might not hold the sums."""
    left, right = less(a, _aligned_zero(a_zero, a, -2)), less(b, _aligned_zero(b_zero, b, -1))
    if isinstance(length := left.shape[-1], int) and length * _largest(a, a_zero) * _largest(b, b_zero) < EXACT:
        return torch.matmul(left, right)
    return torch.matmul(left.double(), right.double()).float()


def _largest(q: Any, zero: ZeroPoint) -> int:
    """What whole numbers of that dtype, less their zero point, can be at most."""
    low, high = BOUNDS[q.dtype]
    if isinstance(zero, Tensor):
        return high - low
    places = [0] if zero is None else zero.list()
    return max(*(high - place for place in places), *(place - low for place in places))


EXACT = 1 << 24
"""Up to here single precision has every whole number."""


@onnx_op("QLinearConv", fold=False, options_of=conv)
def quantised_conv(
    x: Any,
    x_scale: Operand,
    x_zero: Known,
    weight: Any,
    w_scale: Operand,
    w_zero: Known,
    y_scale: Operand,
    y_zero: Known,
    bias: Tensor | None = None,
    **options: Any,
) -> Any:
    """A convolution between quantised tensors: of the whole numbers themselves, measured in steps of the result."""
    given, filters = less(x, _aligned_zero(x_zero, x, 1)), less(weight, _aligned_zero(w_zero, weight, 0))
    offset = None if bias is None else bias.float()
    y = conv(given, filters, offset, **options)
    steps = ratio(x_scale, w_scale, y_scale)
    steps = steps.reshape(-1, *[1] * (weight.dim() - 2)) if isinstance(steps, Tensor) and steps.dim() else steps
    return rounded(y * steps, _aligned_zero(y_zero, y, 1), y_zero.dtype)


def ratio(a: Operand, b: Operand, c: Operand = 1.0) -> Any:
    """`a · b / c` in single precision."""
    if isinstance(a, Tensor) or isinstance(b, Tensor) or isinstance(c, Tensor):
        return a * b / c
    return float(np.float32(a) * np.float32(b) / np.float32(c))


@onnx_op("QLinearMatMul", fold=False)
def quantised_matmul(
    a: Any,
    a_scale: Operand,
    a_zero: Known,
    b: Any,
    b_scale: Operand,
    b_zero: Known,
    y_scale: Operand,
    y_zero: Known,
) -> Any:
    """A product of matrices between quantised tensors."""
    y = whole_product(a, b, a_zero, b_zero)
    rows = a_scale.unsqueeze(-1) if isinstance(a_scale, Tensor) and a_scale.dim() == 1 else a_scale
    return rounded(y * ratio(rows, b_scale, y_scale), _aligned_zero(y_zero, y, -2), y_zero.dtype)


@scaled_form("Conv")
def conv_of_scaled(x: Any, weight: Any, bias: Any = None, **attributes: Any) -> Any:
    """A convolution of whole numbers, scaled by output channel."""
    if not (_is_scaled(x) and _is_scaled(weight, 0)) or not (bias is None or isinstance(bias, Scaled)):
        return NotImplemented
    y = conv(x.values, weight.values, None if bias is None else bias.values, **attributes)
    step = weight.step if weight.is_even else weight.step.reshape(-1, *[1] * (weight.values.dim() - 2))
    return Scaled(y, times(step, x.step), x.dtype)


@scaled_form("MatMul")
def product_of_scaled(a: Any, b: Any) -> Any:
    """A product of matrices of whole numbers, scaled by column."""
    if not (_is_scaled(a) and _is_scaled(b, -1)):
        return NotImplemented
    step = b.step if b.is_even else b.step.reshape(-1)
    return Scaled(torch.matmul(a.values, b.values), times(step, a.step), a.dtype)


@scaled_form("Gemm")
def dense_of_scaled(
    a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Any:
    """A dense layer of whole numbers, scaled by output."""
    plain = alpha == 1 and beta == 1 and not transA
    if not (plain and _is_scaled(a) and _is_scaled(b, 0 if transB else -1)):
        return NotImplemented
    if c is not None and not (isinstance(c, Scaled) and c.values.dim() == 1):
        return NotImplemented
    weight = b.values if transB else b.values.T
    step = b.step if b.is_even else b.step.reshape(-1)
    y = torch.nn.functional.linear(a.values, weight, None if c is None else c.values)
    return Scaled(y, times(step, a.step), a.dtype)


@scaled_form("Relu")
def relu_of_scaled(x: Any) -> Any:
    """Steps are above 0."""
    return x.moved(torch.relu)


def _is_scaled(value: Any, *dims: int) -> bool:
    """Whether it is in whole numbers of single precision, all worth the same, or the same along all dims but these."""
    if not isinstance(value, Scaled) or value.dtype != torch.float32:
        return False
    if value.is_even:
        return True
    shape = list(value.step.shape)
    return len(shape) == value.values.dim() and all(
        size == 1 or place in {dim % len(shape) for dim in dims} for place, size in enumerate(shape)
    )
