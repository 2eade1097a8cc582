"""Attention, written out as matrix products and a softmax."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_compiler.torch_private import OpOverload

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


def log_softmax(tensor: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """`x − log Σ exp x`."""
    tensor = tensor if dtype is None else tensor.to(dtype)
    return tensor - torch.logsumexp(tensor, dim, keepdim=True)


def log_softmax_native(tensor: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """The same, by the name of the kernel."""
    return log_softmax(tensor, dim, torch.float32 if half_to_float else None)


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten.scaled_dot_product_attention.default: scaled_dot_product_attention,
    aten.log_softmax.int: log_softmax,
    aten._log_softmax.default: log_softmax_native,
}
