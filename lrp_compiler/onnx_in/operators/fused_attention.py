"""Attention as onnxruntime's optimisers write it: with its projections, and with masks of several kinds."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrp_compiler.base.errors import CaptureError

from ..registry import Known, Operand, onnx_op
from .attention import rotary_embedding
from .products import matrix_product
from .quantised_layers import MICROSOFT, matmul_integer_to_float

HIDDEN = -10000.0
"""What is added to a score that is not to count, where the file says nothing."""
PACKED = 5
"""Rank of queries, keys and values in one tensor: `[batch, length, heads, 3, size]`."""
HEADED = 4


@onnx_op("Attention", domain=MICROSOFT)
def attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    past_length: Tensor | None = None,
    *,
    num_heads: int,
    do_rotary: int = 0,
    mask_filter_value: float = HIDDEN,
    past_present_share_buffer: int = 0,
    qkv_hidden_sizes: list[int] | None = None,
    rotary_embedding_dim: int = 0,
    scale: float | None = None,
    unidirectional: int = 0,
    outputs: int = 1,
) -> Any:
    """Self-attention, the projections of queries, keys and values included; and keys and values for the next call."""
    _refuse("Attention", do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer)
    projected = matrix_product(x, weight)
    projected = projected if bias is None else projected + bias
    y = _of_projected(
        projected, qkv_hidden_sizes, mask, past, added, num_heads, mask_filter_value, scale, unidirectional
    )
    return y[:outputs]


@onnx_op("QAttention", domain=MICROSOFT, fold=False)
def quantised_attention(
    x: Any,
    weight: Any,
    bias: Tensor,
    x_scale: Operand,
    w_scale: Operand,
    mask: Tensor | None = None,
    x_zero: Known | None = None,
    w_zero: Known | None = None,
    past: Tensor | None = None,
    *,
    num_heads: int,
    do_rotary: int = 0,
    mask_filter_value: float = HIDDEN,
    past_present_share_buffer: int = 0,
    scale: float | None = None,
    unidirectional: int = 0,
    outputs: int = 1,
) -> Any:
    """The same, with projections of whole numbers."""
    _refuse("QAttention", do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer)
    projected = matmul_integer_to_float(x, weight, x_scale, w_scale, x_zero, w_zero, bias)
    y = _of_projected(projected, None, mask, past, None, num_heads, mask_filter_value, scale, unidirectional)
    return y[:outputs]


def _refuse(op: str, **attributes: Any) -> None:
    """Raise `CaptureError` where one of these is asked for."""
    for name, value in attributes.items():
        if value:
            raise CaptureError(f"{op} with {name} is not read: optimise the model without it.")


def _of_projected(
    projected: Tensor,
    sizes: list[int] | None,
    mask: Tensor | None,
    past: Tensor | None,
    added: Tensor | None,
    heads: int,
    hidden: float,
    scale: float | None,
    causal: int,
) -> tuple[Tensor, ...]:
    parts = projected.split(sizes or projected.shape[-1] // 3, -1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    y, _ = attended(q, k, v, _hides(mask, k, q, hidden), added, scale, causal)
    return (y, torch.stack([k, v])) if k.shape == v.shape else (y,)


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hides: Tensor | None,
    added: Tensor | None,
    scale: float | None,
    causal: int,
) -> tuple[Tensor, Tensor]:
    """`softmax(Q Kᵀ · scale + …) V`, heads side by side, and the scores."""
    scores = torch.matmul(q, k.transpose(-2, -1)) * (scale or 1 / sqrt(q.shape[-1]))
    if causal:
        rows, columns = scores.shape[-2:]
        place = torch.arange(rows).unsqueeze(1) + (columns - rows)
        scores = scores.masked_fill(torch.arange(columns) > place, float("-inf"))
    for one in (hides, added):
        scores = scores if one is None else scores + one
    return torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2).flatten(2), scores


def _hides(mask: Tensor | None, k: Tensor, q: Tensor, hidden: float) -> Tensor | None:
    """What is added to the scores for a mask: a row or a matrix of what is seen, or ends, and beginnings."""
    if mask is None:
        return None
    batch, columns, rows = k.shape[0], k.shape[2], q.shape[2]
    if mask.dim() == 1:
        place = torch.arange(columns)
        seen = place < mask[:batch].unsqueeze(1)
        if isinstance(mask.shape[0], int) and isinstance(batch, int) and mask.shape[0] == 2 * batch:
            seen = seen & (place >= mask[batch:].unsqueeze(1))
        seen = seen.reshape(-1, 1, 1, columns)
    elif mask.dim() == HEADED:
        past = columns - rows
        seen = mask[:, :, past : past + rows, :columns] > 0
    else:
        seen = (mask > 0).unsqueeze(1)
        seen = seen if seen.dim() == HEADED else seen.unsqueeze(1)
    return (~seen).to(q.dtype) * hidden


@onnx_op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    past_length: Tensor | None = None,
    cache: Tensor | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = HIDDEN,
    scale: float | None = None,
    unidirectional: int = 0,
) -> Any:
    """Attention of queries, keys and values that are projected already; their biases are added here."""
    if past_length is not None or cache is not None:
        raise CaptureError("MultiHeadAttention with a shared buffer is not read: optimise the model without it.")
    parts = _parts(query, key, value, num_heads)
    if bias is not None:
        sizes = [part.shape[1] * part.shape[3] for part in parts]
        offsets = [one.reshape(num_heads, 1, -1) for one in bias.split(sizes)]
        crossing = key is not None and key.dim() == HEADED
        parts = [
            part if crossing and place else part + offset
            for place, (part, offset) in enumerate(zip(parts, offsets, strict=True))
        ]
    q, k, v = parts
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    y, scores = attended(q, k, v, _hides(mask, k, q, mask_filter_value), added, scale, unidirectional)
    return y, k, v, scores


def _parts(query: Tensor, key: Tensor | None, value: Tensor | None, heads: int) -> list[Tensor]:
    """Queries, keys and values, each `[batch, heads, length, size]`."""
    if query.dim() == PACKED:
        return [part.transpose(1, 2) for part in query.unbind(3)]
    assert key is not None
    given = [query, *key.unbind(3)] if key.dim() == PACKED else [query, key, value]
    found = []
    for part in given:
        assert part is not None
        if part.dim() == HEADED and key.dim() != PACKED:
            found.append(part)
        else:
            found.append((part if part.dim() == HEADED else part.unflatten(-1, (heads, -1))).transpose(1, 2))
    return found


@onnx_op("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    lengths: Tensor,
    total: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    positions: Tensor | None = None,
    added: Tensor | None = None,
    sink: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    query_lengths: Tensor | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    causal: int = 1,
    do_rotary: int = 0,
    k_quant_type: str = "NONE",
    kv_cache_bit_width: int = 0,
    local_window_size: int = -1,
    qk_norm_epsilon: float = 1e-6,
    q_norm_epsilon: float | None = None,
    k_norm_epsilon: float | None = None,
    qk_output: int = 0,
    rotary_interleaved: int = 0,
    scale: float | None = None,
    sliding_window_cache: int = 0,
    smooth_softmax: int = 0,
    softcap: float = 0.0,
    v_quant_type: str = "NONE",
) -> Any:
    """Attention in which several heads of queries share a head of keys and values, as language models are optimised to.

    Of the past each row holds as much as `lengths` says, which are the tokens in all, less one; what is behind that in
    a longer buffer is hidden.
    """
    _refuse(
        "GroupQueryAttention",
        head_sink=sink is not None or smooth_softmax > 0,
        kv_cache_bit_width=kv_cache_bit_width,
        qk_output=qk_output,
        query_seqlens=query_lengths is not None,
        sliding_window_cache=sliding_window_cache,
    )
    if key is None or value is None:
        size = query.shape[-1] // (num_heads + 2 * kv_num_heads)
        query, key, value = query.split([num_heads * size, kv_num_heads * size, kv_num_heads * size], -1)
    q, k, v = (
        one.unflatten(-1, (heads, -1)).transpose(1, 2)
        for one, heads in ((query, num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    if q_norm is not None and k_norm is not None:
        q = F.rms_norm(q, q_norm.shape, q_norm, qk_norm_epsilon if q_norm_epsilon is None else q_norm_epsilon)
        k = F.rms_norm(k, k_norm.shape, k_norm, qk_norm_epsilon if k_norm_epsilon is None else k_norm_epsilon)
    held = 0 if past_key is None else past_key.shape[2]
    new = torch.arange(q.shape[2])
    if past_key is None:
        row = new.expand(q.shape[0], -1)
    else:
        row = (lengths.reshape(-1, 1).to(torch.int64) + 1 - q.shape[2]).clamp(min=0) + new
    if do_rotary:
        assert cos is not None
        assert sin is not None
        place = row if positions is None else positions
        q, k = (
            rotary_embedding(
                one, cos, sin, place, interleaved=rotary_interleaved, rotary_embedding_dim=2 * cos.shape[-1]
            )
            for one in (q, k)
        )
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present, repeats = (k, v), num_heads // kv_num_heads
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = torch.matmul(q, k.transpose(-2, -1)) * (scale or 1 / sqrt(q.shape[-1]))
    scores = torch.tanh(scores / softcap) * softcap if softcap else scores
    hidden, column = _unseen(row, held, causal, local_window_size)
    if added is not None and past_key is not None:
        shape = (q.shape[0], *added.shape[1:-1], column.shape[-1])
        added = added.expand(q.shape[0], -1, -1, -1).gather(-1, column.expand(shape))
    scores = scores if added is None else scores + added
    weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)
    return (torch.matmul(weights, v).transpose(1, 2).flatten(2), *present)


def _unseen(row: Tensor, held: Any, causal: int, window: int) -> tuple[Tensor, Tensor]:
    """Which keys no query sees, and the places of the keys, those of the past in front.

    Args:
        row: places of the queries, `[batch, queries]`, the new keys' among them.
        held: how long the buffer of the past is.
        causal: whether what is behind a query is hidden from it.
        window: how many keys a query sees at most; below 0: all.
    """
    past = torch.arange(held).expand(row.shape[0], -1)
    column = torch.cat([past, row], 1)
    within = torch.cat([past < row[:, :1], torch.ones_like(row, dtype=torch.bool)], 1)
    here, there = row.unsqueeze(2), column.unsqueeze(1)
    hidden = ~within.unsqueeze(1)
    if causal:
        hidden = hidden | (there > here)
    if window >= 0:
        hidden = hidden | (there <= here - window)
    return hidden.unsqueeze(1), column.reshape(column.shape[0], 1, 1, -1)


@onnx_op("RotaryEmbedding", domain=MICROSOFT)
def rotary_of_positions(
    x: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """Pairs of elements turned by their position's angle; a single position is that of the first element."""
    length = x.shape[2] if x.dim() == HEADED else x.shape[1]
    if positions.dim() == 1:
        positions = (positions + torch.arange(length)).expand(x.shape[0], -1)
    heads = num_heads or (1 if x.dim() == HEADED else x.shape[-1] // (2 * cos.shape[-1]))
    return rotary_embedding(
        x, cos, sin, positions, interleaved=interleaved, num_heads=heads, rotary_embedding_dim=rotary_embedding_dim
    )


@onnx_op("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    ids: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    kinds: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    places: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> Any:
    """The sum of a word's, its position's and its segment's rows, normalised; how many words count; the sum itself."""
    whole = F.embedding(ids, words)
    whole = whole + (positions[: ids.shape[1]] if places is None else F.embedding(places, positions))
    if segments is not None and kinds is not None:
        whole = whole + F.embedding(segments, kinds)
    counted = ids.new_zeros(ids.shape[0]) if mask is None else mask.sum(1)
    return F.layer_norm(whole, gamma.shape, gamma, beta, epsilon), counted.to(torch.int32), whole
