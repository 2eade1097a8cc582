"""Weights of few bits, packed into bytes, with a scale and a zero point for every block of them.

They stay in their bytes: they are taken apart in the graph, which a runtime does once, when it loads the file.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from lrp_compiler.base.errors import CaptureError

from ..registry import onnx_op
from .quantised_layers import MICROSOFT

BYTE = 8
IN_8_BITS = 4
"""The level of accuracy at which onnxruntime quantises the activations, too."""
MOST_OF_8 = 127.0
LEAST = 1e-30
"""What a block of zeros is measured by."""


def unpacked(packed: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Numbers of so many bits out of bytes, those of the lowest bits first: uint8 `[…, n]` → `[…, n · 8 / bits]`.

    Worked out in floats, which hold them exactly: what runtimes make of shifted bytes differs.
    """
    rest = packed.to(dtype)
    parts = []
    for _ in range(BYTE // bits - 1):
        higher = torch.floor(rest / (1 << bits))
        parts.append(rest - higher * (1 << bits))
        rest = higher
    return torch.stack([*parts, rest], -1).flatten(-2) if parts else rest


def _refuse_bits(op: str, bits: int) -> None:
    if BYTE % bits:
        raise CaptureError(f"{op} of {bits} bits is not read: quantise the model to 2, 4 or 8 bits.")


@onnx_op("MatMulNBits", domain=MICROSOFT, fold=False)
def matmul_of_few_bits(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    order: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    block_size: int,
    accuracy_level: int = 0,
    bits: int = 4,
    weight_prepacked: int = 0,
) -> Tensor:
    """`x Wᵀ + bias`, W in blocks of rows: `(q − zero point) · scale`."""
    _refuse_bits("MatMulNBits", bits)
    if order is not None:
        raise CaptureError("MatMulNBits with g_idx is not read: quantise the model without reordering (act_order).")
    if weight_prepacked:
        raise CaptureError("MatMulNBits with weights packed for one processor is not read: give the file before that.")
    blocks = -(-K // block_size)
    whole = unpacked(weight.reshape(N, blocks, -1), bits, scales.dtype)
    less: Any = float(1 << (bits - 1))
    if zeros is not None:
        packed = zeros.dtype == torch.uint8
        less = unpacked(zeros.reshape(N, -1), bits, scales.dtype)[:, :blocks] if packed else zeros.reshape(N, blocks)
        less = less.unsqueeze(-1)
    dense = ((whole - less) * scales.reshape(N, blocks, 1)).flatten(1)
    weights = dense if blocks * block_size == K else dense[:, :K]
    given = of_8_bits(x, block_size) if accuracy_level == IN_8_BITS else x
    return F.linear(given, weights, bias)


def of_8_bits(x: Tensor, block: int) -> Tensor:
    """What is left of activations in blocks of whole numbers of 8 bits, each as large as its largest element asks.

    How large that is carries no relevance.
    """
    length = x.shape[-1]
    rest = -length % block
    wide = F.pad(x.float(), [0, rest]) if rest else x.float()
    parts = wide.unflatten(-1, (-1, block))
    largest = parts.detach().abs().amax(-1, keepdim=True).clamp_min(LEAST)
    whole = torch.round(parts * (MOST_OF_8 / largest))
    made = (whole * (largest / MOST_OF_8)).flatten(-2)
    return (made[..., :length] if rest else made).to(x.dtype)


@onnx_op("GatherBlockQuantized", domain=MICROSOFT, fold=False)
def gather_of_few_bits(
    table: Tensor,
    indices: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
    stored: list[int],
) -> Tensor:
    """Rows of a table in blocks: `(q − zero point) · scale`. Bytes hold several numbers each."""
    bytes_ = stored[0] == TensorProto.UINT8
    if bytes_:
        _refuse_bits("GatherBlockQuantized", bits)
        table = unpacked(table, bits, scales.dtype)
        zeros = None if zeros is None else unpacked(zeros, bits, scales.dtype)
    axis = quantize_axis % table.dim()
    size = table.shape[axis]

    def spread(value: Tensor) -> Tensor:
        return value.repeat_interleave(block_size or size, axis).narrow(axis, 0, size)

    whole = table.to(scales.dtype)
    if zeros is not None:
        whole = whole - spread(zeros.to(scales.dtype))
    elif bytes_:
        whole = whole - float(1 << (bits - 1))
    dense = whole * spread(scales)
    if gather_axis % table.dim() == 0 and table.dim() == MATRIX:
        return F.embedding(indices, dense)
    index: Any = (*[slice(None)] * (gather_axis % table.dim()), indices)
    return dense[index]


MATRIX = 2
