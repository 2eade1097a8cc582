"""Attention, and positions written into it."""

from __future__ import annotations

from functools import reduce
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op

HEADED = 4
"""Rank of `[batch, heads, length, size]`; of rank 3 the heads lie side by side."""


@onnx_op("RotaryEmbedding")
def rotary_embedding(
    x: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Pairs of elements turned by an angle that their position says (Su et al., 2021)."""
    heads = x if x.dim() == HEADED else _apart(x, num_heads)
    size = rotary_embedding_dim or heads.shape[-1]
    cos, sin = cos_cache, sin_cache
    if position_ids is not None:
        cos, sin = torch.nn.functional.embedding(position_ids, cos), torch.nn.functional.embedding(position_ids, sin)
    cos, sin = cos[..., : size // 2].unsqueeze(1), sin[..., : size // 2].unsqueeze(1)
    turned, rest = heads[..., :size], heads[..., size:]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.split(size // 2, -1)
    real, imaginary = a * cos - b * sin, b * cos + a * sin
    turned = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    whole = torch.cat([turned, rest], -1) if size != heads.shape[-1] else turned
    return whole if x.dim() == HEADED else _together(whole)


def _apart(x: Tensor, heads: int) -> Tensor:
    """`[batch, length, heads · size]` → `[batch, heads, length, size]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _together(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


@onnx_op("Attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    left_window_size: int = -1,
    right_window_size: int = -1,
    outputs: int = 1,
) -> Any:
    """`softmax(Q Kᵀ · scale + mask) V`, of every head; keys and values of the past come first."""
    flat = q.dim() != HEADED
    if flat:
        assert q_num_heads is not None
        assert kv_num_heads is not None
        q, k, v = _apart(q, q_num_heads), _apart(k, kv_num_heads), _apart(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present = (k, v)
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    factor = 1 / sqrt(q.shape[-1]) if scale is None else scale
    scores = torch.matmul(q * sqrt(factor), (k * sqrt(factor)).transpose(-2, -1))
    capped = torch.tanh(scores / softcap) * softcap if softcap else scores
    past = 0 if past_key is None else past_key.shape[2]
    window = (left_window_size, 0 if is_causal else right_window_size)
    added = _mask(scores, mask, past, nonpad_kv_seqlen, window)
    biased, weights = _weights(capped, added)
    y = torch.matmul(weights, v)
    y = _together(y) if flat else y
    shown = (scores, capped, biased, weights)[qk_matmul_output_mode]
    return (y, *present, shown)[:outputs] if outputs > 1 else y


def _weights(scores: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores with the mask, and their softmax; a row in which nothing is to be seen gets zeros."""
    if added is None:
        return scores, torch.softmax(scores, -1)
    biased = scores + added
    blind = (added == float("-inf")).all(-1, keepdim=True)
    safe = scores + added.masked_fill(blind, 0.0)
    return biased, torch.softmax(safe, -1).masked_fill(blind, 0.0)


def _mask(
    scores: Tensor, mask: Tensor | None, past: Any, lengths: Tensor | None, window: tuple[int, int]
) -> Tensor | None:
    """What is added to the scores: −∞ where nothing is to be seen."""
    rows, columns = scores.shape[-2:]
    added: Tensor | None = None
    hidden: list[Tensor] = []
    if mask is not None:
        if isinstance(mask.shape[-1], int) and isinstance(columns, int) and mask.shape[-1] < columns:
            filling: Any = False if mask.dtype == torch.bool else float("-inf")
            mask = torch.nn.functional.pad(mask, [0, columns - mask.shape[-1]], value=filling)
        if mask.dtype == torch.bool:
            hidden.append(~mask)
        else:
            added = mask
    offset: Any = past if lengths is None else (lengths - rows).reshape(-1, 1, 1, 1)
    row, column = torch.arange(rows).unsqueeze(1) + offset, torch.arange(columns)
    left, right = window
    if left >= 0:
        hidden.append(column < row - left)
    if right >= 0:
        hidden.append(column > row + right)
    if lengths is not None:
        hidden.append(column >= lengths.reshape(-1, 1, 1, 1))
    if not hidden:
        return added
    barred = torch.zeros((), dtype=scores.dtype).masked_fill(reduce(torch.logical_or, hidden), float("-inf"))
    return barred if added is None else added + barred


@onnx_op("CausalConvWithState")
def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None, *, activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """A convolution of each channel with what came before it, and the end of that for the next call."""
    reach = weight.shape[-1] - 1
    before = x.new_zeros([x.shape[0], x.shape[1], reach]) if past is None else past
    whole = torch.cat([before, x], -1)
    y = torch.nn.functional.conv1d(whole, weight, bias, groups=weight.shape[0])
    y = y if activation == "none" else torch.nn.functional.silu(y)
    return y, whole.narrow(-1, whole.shape[-1] - reach, reach)


@onnx_op("LinearAttention")
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    q_num_heads: int,
    kv_num_heads: int,
    chunk_size: int = 64,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Tensor, Tensor]:
    """Attention without a softmax: a state that every key writes its value into, and every query reads."""
    q, k, v = _apart(query, q_num_heads), _apart(key, kv_num_heads), _apart(value, kv_num_heads)
    factor = scale or 1 / sqrt(k.shape[-1])
    state = k.new_zeros([*k.shape[:2], k.shape[-1], v.shape[-1]]) if past is None else past
    gates = None if decay is None else torch.exp(_apart(decay, kv_num_heads))
    rates = None if beta is None else _apart(beta, beta.shape[-1])
    found = []
    for step in range(query.shape[1]):
        now, seen = k[:, :, step].unsqueeze(-1), v[:, :, step].unsqueeze(-2)
        if gates is not None and update_rule.startswith("gated"):
            state = state * gates[:, :, step].unsqueeze(-1)
        if update_rule.endswith("delta"):
            seen = seen - torch.matmul(now.transpose(-2, -1), state)
            seen = seen if rates is None else seen * rates[:, :, step].unsqueeze(-1)
        state = state + now * seen
        read = state.repeat_interleave(q_num_heads // kv_num_heads, 1)
        found.append(torch.matmul(q[:, :, step].unsqueeze(-2) * factor, read).squeeze(-2))
    return _together(torch.stack(found, 2)), state
