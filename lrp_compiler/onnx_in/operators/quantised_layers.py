"""onnxruntime's own operators between quantised tensors, and from them to floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrp_compiler.base.errors import FormatError

from ..registry import Known, Operand, onnx_op
from ..sizes import Sizes
from ..whole_numbers import Whole
from .activations import softmax, softmax_of_rest
from .convolution import conv
from .pooling import average_pool
from .quantised import (
    ZeroPoint,
    conv_integer,
    dequantize,
    dequantized,
    dynamic_quantize,
    less,
    quantised_conv,
    quantize,
    ratio,
    rounded,
    whole_product,
)
from .recurrent import in_torchs_order, lstm_by

MICROSOFT = "com.microsoft"
SINCE_AXIS = 13
"""The opset from which a softmax is over one axis."""

onnx_op("QuantizeLinear", domain=MICROSOFT, fold=False)(quantize)
onnx_op("DequantizeLinear", domain=MICROSOFT, fold=False)(dequantized)
onnx_op("ConvInteger", domain=MICROSOFT, fold=False, options_of=conv)(conv_integer)


def again(y: Tensor, scale: Operand, zero: ZeroPoint, like: Any) -> Any:
    """Quantised again: without a zero point to the dtype of the first operand, about 0."""
    return quantize(y, scale, Sizes.of(0, like.dtype) if zero is None else zero)


def _there(op: str, zero: ZeroPoint) -> ZeroPoint:
    """The zero point of a result; raises `FormatError` where it is left out, of which onnxruntime ends the process."""
    if zero is None:
        raise FormatError(
            f"A {op} lacks the zero point of its result, without which onnxruntime cannot run it: give it one of 0."
        )
    return zero


@onnx_op("QLinearAdd", domain=MICROSOFT, fold=False)
def quantised_add(
    a: Any,
    a_scale: Operand,
    a_zero: Known | None,
    b: Any,
    b_scale: Operand,
    b_zero: Known | None,
    y_scale: Operand,
    y_zero: Known | None = None,
) -> Any:
    """`a + b`."""
    return again(dequantize(a, a_scale, a_zero) + dequantize(b, b_scale, b_zero), y_scale, y_zero, a)


@onnx_op("QLinearMul", domain=MICROSOFT, fold=False)
def quantised_multiply(
    a: Any,
    a_scale: Operand,
    a_zero: Known | None,
    b: Any,
    b_scale: Operand,
    b_zero: Known | None,
    y_scale: Operand,
    y_zero: Known | None = None,
) -> Any:
    """`a · b`."""
    return again(dequantize(a, a_scale, a_zero) * dequantize(b, b_scale, b_zero), y_scale, y_zero, a)


@onnx_op("QLinearSigmoid", domain=MICROSOFT, fold=False)
def quantised_sigmoid(
    x: Any, x_scale: Operand, x_zero: Known | None, y_scale: Operand, y_zero: Known | None = None
) -> Any:
    """`1 / (1 + e⁻ˣ)`."""
    return quantize(torch.sigmoid(dequantize(x, x_scale, x_zero)), y_scale, _there("QLinearSigmoid", y_zero))


@onnx_op("QLinearLeakyRelu", domain=MICROSOFT, fold=False)
def quantised_leaky_relu(
    x: Any,
    x_scale: Operand,
    x_zero: Known | None,
    y_scale: Operand,
    y_zero: Known | None = None,
    *,
    alpha: float = 0.01,
) -> Any:
    """`x`, and `alpha · x` below 0."""
    return quantize(F.leaky_relu(dequantize(x, x_scale, x_zero), alpha), y_scale, _there("QLinearLeakyRelu", y_zero))


@onnx_op("QLinearSoftmax", domain=MICROSOFT, fold=False)
def quantised_softmax(
    x: Any,
    x_scale: Operand,
    x_zero: Known | None,
    y_scale: Operand,
    y_zero: Known,
    *,
    opset: int,
    axis: int = -1,
) -> Any:
    """Along an axis; until opset 12 over all dims from it on. `opset` is an attribute of the node's own."""
    function = softmax if opset >= SINCE_AXIS else softmax_of_rest
    return quantize(function(dequantize(x, x_scale, x_zero), axis=axis), y_scale, y_zero)


@onnx_op("QLinearAveragePool", domain=MICROSOFT, fold=False)
def quantised_average_pool(
    x: Any,
    x_scale: Operand,
    x_zero: Known | None,
    y_scale: Operand,
    y_zero: Known | None = None,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    channels_last: int = 0,
    count_include_pad: int = 0,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Any:
    """The mean of each window."""
    values = channels_first(dequantize(x, x_scale, x_zero), channels_last)
    y = average_pool(
        values,
        kernel_shape=kernel_shape,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        pads=pads,
        strides=strides,
    )
    return again(as_it_was(y, channels_last), y_scale, y_zero, x)


@onnx_op("QLinearGlobalAveragePool", domain=MICROSOFT, fold=False)
def quantised_global_average_pool(
    x: Any, x_scale: Operand, x_zero: Known, y_scale: Operand, y_zero: Known, *, channels_last: int = 0
) -> Any:
    """The mean over space."""
    dims = list(range(1, len(x.shape) - 1)) if channels_last else list(range(2, len(x.shape)))
    return quantize(dequantize(x, x_scale, x_zero).mean(dims, keepdim=True), y_scale, y_zero)


@onnx_op("QLinearReduceMean", domain=MICROSOFT, fold=False)
def quantised_mean(
    x: Any,
    x_scale: Operand,
    x_zero: Known | None,
    y_scale: Operand,
    y_zero: Known | None = None,
    *,
    axes: list[int],
    keepdims: int,
) -> Any:
    """The mean over some dims."""
    return again(dequantize(x, x_scale, x_zero).mean(axes, keepdim=bool(keepdims)), y_scale, y_zero, x)


@onnx_op("QLinearConcat", domain=MICROSOFT, fold=False)
def quantised_concat(y_scale: Operand, y_zero: Known, *inputs: Known, axis: int) -> Any:
    """Tensors one behind the other, each with its scale and zero point behind it."""
    parts = [inputs[place : place + 3] for place in range(0, len(inputs), 3)]
    values = [dequantize(x, _number(scale), zero) for x, scale, zero in parts]
    return quantize(torch.cat(values, axis), y_scale, y_zero)


def _number(value: Any) -> Any:
    return value.one() if isinstance(value, Sizes) else value


@onnx_op("QLinearWhere", domain=MICROSOFT, fold=False)
def quantised_where(
    condition: Tensor,
    a: Any,
    a_scale: Operand,
    a_zero: Known,
    b: Any,
    b_scale: Operand,
    b_zero: Known,
    y_scale: Operand,
    y_zero: Known,
) -> Any:
    """One or the other."""
    return quantize(
        torch.where(condition, dequantize(a, a_scale, a_zero), dequantize(b, b_scale, b_zero)), y_scale, y_zero
    )


@onnx_op("QLinearConv", domain=MICROSOFT, fold=False, options_of=conv)
def quantised_conv_of_channels_last(
    x: Any,
    x_scale: Operand,
    x_zero: Known,
    weight: Any,
    w_scale: Operand,
    w_zero: Known,
    y_scale: Operand,
    y_zero: Known,
    bias: Tensor | None = None,
    *,
    channels_last: int = 0,
    **options: Any,
) -> Any:
    """A convolution between quantised tensors, whose channels may be the last dim."""
    y = quantised_conv(
        moved(x, lambda values: channels_first(values, channels_last)),
        x_scale,
        x_zero,
        weight,
        w_scale,
        w_zero,
        y_scale,
        y_zero,
        bias,
        **options,
    )
    return moved(y, lambda values: as_it_was(values, channels_last))


def moved(q: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Whole numbers whose elements are moved."""
    return q.moved(function) if isinstance(q, Whole) else function(q)


def channels_first(x: Tensor, last: int) -> Tensor:
    """`[batch, …, channels]` → `[batch, channels, …]`, where they are last."""
    return x.movedim(-1, 1) if last else x


def as_it_was(x: Tensor, last: int) -> Tensor:
    """The way back."""
    return x.movedim(1, -1) if last else x


@onnx_op("QGemm", domain=MICROSOFT, fold=False)
def quantised_gemm(
    a: Any,
    a_scale: Operand,
    a_zero: Known,
    b: Any,
    b_scale: Operand,
    b_zero: Known,
    c: Tensor | None = None,
    y_scale: Operand | None = None,
    y_zero: Known | None = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Any:
    """`alpha · A B + C`, C in steps of the product; quantised again where there is a scale for it."""
    a, b = (moved(q, lambda x: x.T) if turned else q for q, turned in ((a, transA), (b, transB)))
    y = whole_product(a, b, a_zero, b_zero)
    y = y if c is None else y + c.float()
    if y_scale is None:
        return y * (ratio(a_scale, b_scale) * alpha)
    assert y_zero is not None
    return rounded(y * (ratio(a_scale, b_scale, y_scale) * alpha), y_zero, y_zero.dtype)


@onnx_op("MatMulIntegerToFloat", domain=MICROSOFT, fold=False)
def matmul_integer_to_float(
    a: Any,
    b: Any,
    a_scale: Operand,
    b_scale: Operand,
    a_zero: Known | None = None,
    b_zero: Known | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A product of whole numbers, as floats."""
    y = whole_product(a, b, a_zero, b_zero) * ratio(a_scale, b_scale)
    return y if bias is None else y + bias


@onnx_op("DynamicQuantizeMatMul", domain=MICROSOFT, fold=False)
def dynamic_quantize_matmul(
    a: Tensor, b: Any, b_scale: Operand, b_zero: Known | None = None, bias: Tensor | None = None
) -> Tensor:
    """A product with whole numbers, of whole numbers that are made here."""
    q, scale, zero = dynamic_quantize(a)
    return matmul_integer_to_float(q, b, scale, b_scale, zero, b_zero, bias)


@onnx_op("MatMulInteger16", domain=MICROSOFT, fold=False)
def matmul_integer_16(a: Any, b: Any) -> Any:
    """A product of whole numbers of 16 bits."""
    return torch.matmul(less(a, None).double(), less(b, None).double()).to(torch.int32)


@onnx_op("QEmbedLayerNormalization", domain=MICROSOFT, fold=False)
def quantised_embed_layer_norm(
    ids: Tensor,
    segments: Tensor | None,
    words: Any,
    positions: Any,
    kinds: Any,
    gamma: Any,
    beta: Any,
    mask: Tensor | None,
    word_scale: Operand,
    position_scale: Operand,
    kind_scale: Operand | None,
    gamma_scale: Operand,
    beta_scale: Operand,
    word_zero: Known,
    position_zero: Known,
    kind_zero: Known | None,
    gamma_zero: Known,
    beta_zero: Known,
    *,
    epsilon: float = 1e-12,
) -> Any:
    """The sum of a word's, its position's and its segment's rows of stored tables, normalised."""
    hidden = looked_up(words, ids, word_scale, word_zero)
    hidden = hidden + dequantize(positions, position_scale, position_zero)[: ids.shape[1]]
    if segments is not None:
        assert kind_scale is not None
        hidden = hidden + looked_up(kinds, segments, kind_scale, kind_zero)
    scale, bias = dequantize(gamma, gamma_scale, gamma_zero), dequantize(beta, beta_scale, beta_zero)
    counted = ids.new_zeros(ids.shape[0]) if mask is None else mask.sum(1)
    return F.layer_norm(hidden, scale.shape, scale, bias, epsilon), counted.to(torch.int32)


def looked_up(table: Any, indices: Tensor, scale: Operand, zero: ZeroPoint) -> Tensor:
    """Rows of a stored table."""
    return F.embedding(indices.long(), dequantize(table, scale, zero))


@onnx_op("DynamicQuantizeLSTM", domain=MICROSOFT, fold=False)
def dynamic_quantize_lstm(
    x: Tensor,
    weight: Any,
    recurrence: Any,
    bias: Tensor | None,
    lengths: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    peepholes: Tensor | None,
    w_scale: Tensor,
    w_zero: Tensor,
    r_scale: Tensor,
    r_zero: Tensor,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
) -> Any:
    """An LSTM of stored weights: the sequence is quantised as a whole, the hidden state at every step."""
    dense = (_by_direction(weight, w_scale, w_zero), _by_direction(recurrence, r_scale, r_zero))
    functions = (activations, activation_alpha, activation_beta)
    options: dict[str, Any] = {"clip": clip, "direction": direction, "input_forget": input_forget}
    parameters = in_torchs_order("LSTM").function(*dense, bias, direction=direction)
    states = (lengths, hidden, cell, peepholes)
    return lstm_by(_there_and_back(x), parameters, *states, functions, seen=_there_and_back, **options)


def _there_and_back(x: Tensor) -> Tensor:
    q, scale, zero = dynamic_quantize(x)
    return dequantize(q, scale, zero)


def _by_direction(weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """`[directions, inputs, gates]` as floats `[directions, gates, inputs]`."""
    scale, zero = (one.float().reshape(weight.shape[0], 1, -1) for one in (scale, zero))
    return ((weight.float() - zero) * scale).transpose(1, 2)
