"""Ops that are written out in simpler ones before any rule sees them.

The level that the rules speak keeps linear, convolution, layer norm, softmax, matmul, pooling and activations whole
(torch.export keeps them so by itself). What is a composition of those, or hands out several results, is written out
here: then its rule is the composition of the parts' rules, and needs no line of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional

aten = torch.ops.aten


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`softmax(q kᵀ · scale + mask) v`, with grouped key/value heads repeated.

    A row whose mask leaves nothing is all zeros, as in torch's own kernel (`_safe_softmax`).
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (_repeat_heads(tensor, groups) for tensor in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * factor, key.transpose(-2, -1))
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device).unsqueeze(-1)
        attn_mask = torch.arange(key.shape[-2], device=query.device) <= rows
    if attn_mask is None:
        return torch.matmul(torch.softmax(scores, -1), value)
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    scores = scores + attn_mask
    weights = torch.softmax(scores, -1) if is_causal else aten._safe_softmax.default(scores, -1)
    return torch.matmul(weights, value)


def _repeat_heads(tensor: Tensor, groups: int) -> Tensor:
    repeated = tensor.unsqueeze(-3).expand(*tensor.shape[:-2], groups, *tensor.shape[-2:])
    return repeated.flatten(-4, -3)


def split(tensor: Tensor, split_size: int, dim: int = 0) -> list[Tensor]:
    """Slices of `split_size`, the last one perhaps shorter."""
    size = int(tensor.shape[dim])
    return [
        aten.slice.Tensor(tensor, dim, start, min(start + split_size, size)) for start in range(0, size, split_size)
    ]


def split_with_sizes(tensor: Tensor, split_sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Slices of the given sizes."""
    pieces, start = [], 0
    for size in split_sizes:
        pieces.append(aten.slice.Tensor(tensor, dim, start, start + size))
        start = start + size
    return pieces


def chunk(tensor: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    """`chunks` slices of equal size, the last one perhaps shorter."""
    return split(tensor, -(-int(tensor.shape[dim]) // chunks), dim)


def unbind(tensor: Tensor, dim: int = 0) -> list[Tensor]:
    """One slice for each position."""
    return [tensor.select(dim, index) for index in range(int(tensor.shape[dim]))]


def adaptive_average(dims: int) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """Adaptive average pooling over the last `dims` dims, as a mean, a plain average pool, or matmuls."""
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[dims]

    def decomposed(tensor: Tensor, output_size: Sequence[int]) -> Tensor:
        sizes = list(tensor.shape[-dims:])
        wanted = [size if want is None else want for size, want in zip(sizes, output_size, strict=True)]
        if all(statically_known_true(want == 1) for want in wanted):
            return tensor.mean(list(range(-dims, 0)), keepdim=True)
        if all(statically_known_true(size % want == 0) for size, want in zip(sizes, wanted, strict=True)):
            return pool(tensor, [size // want for size, want in zip(sizes, wanted, strict=True)])
        for dim, (size, want) in enumerate(zip(sizes, wanted, strict=True), start=-dims):
            matrix = _averaging_matrix(int(size), int(want), tensor)
            tensor = torch.matmul(tensor.transpose(dim, -1), matrix).transpose(dim, -1)
        return tensor

    return decomposed


def _averaging_matrix(size: int, want: int, like: Tensor) -> Tensor:
    """`[size, want]`: column j averages positions ⌊j·size/want⌋ … ⌈(j+1)·size/want⌉, as torch's adaptive pools do."""
    columns = torch.arange(want, device=like.device)
    start = columns * size // want
    end = ((columns + 1) * size + want - 1) // want
    rows = torch.arange(size, device=like.device).unsqueeze(-1)
    inside = (rows >= start) & (rows < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def convolution_same(convolution: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution with padding "same" or "valid": the padding written out, the odd element at the end."""

    def decomposed(
        tensor: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: str = "valid",
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        dims = weight.dim() - 2
        if padding == "valid":
            return convolution(tensor, weight, bias, stride, 0, dilation, groups)
        dilations = [dilation] * dims if isinstance(dilation, int) else list(dilation) * (dims // len(dilation))
        totals = [reach * (length - 1) for reach, length in zip(dilations, weight.shape[2:], strict=True)]
        even = [amount // 2 for amount in totals]
        if any(amount % 2 for amount in totals):
            tensor = functional.pad(tensor, [pad for amount in reversed(totals) for pad in (0, amount % 2)])
        return convolution(tensor, weight, bias, stride, even, dilation, groups)

    return decomposed


def rms_norm(
    tensor: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """`x / √(mean x² + ε) ⊙ w`."""
    dims = list(range(-len(normalized_shape), 0))
    epsilon = torch.finfo(tensor.dtype).eps if eps is None else eps
    normalised = tensor * torch.rsqrt((tensor * tensor).mean(dims, keepdim=True) + epsilon)
    return normalised if weight is None else normalised * weight


def type_as(tensor: Tensor, other: Tensor) -> Tensor:
    """A cast: the other tensor lends its dtype only."""
    return tensor.to(other.dtype)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.scaled_dot_product_attention.default: scaled_dot_product_attention,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.chunk.default: chunk,
    aten.unbind.int: unbind,
    aten.adaptive_avg_pool1d.default: adaptive_average(1),
    aten.adaptive_avg_pool2d.default: adaptive_average(2),
    aten._adaptive_avg_pool2d.default: adaptive_average(2),
    aten.adaptive_avg_pool3d.default: adaptive_average(3),
    aten._adaptive_avg_pool3d.default: adaptive_average(3),
    aten.conv1d.padding: convolution_same(functional.conv1d),
    aten.conv2d.padding: convolution_same(functional.conv2d),
    aten.conv3d.padding: convolution_same(functional.conv3d),
    aten.rms_norm.default: rms_norm,
    aten.type_as.default: type_as,
}
