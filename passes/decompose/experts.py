"""Mixtures of experts: rows that are sorted by expert, each multiplied by the matrix of its own.

A graph without loops cannot cut a tensor at places that depend on values: every expert calculates every row, and each
row takes what its own made of it. Relevance then passes one expert's weights alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.torch_private import OpOverload

aten = torch.ops.aten


def grouped_rows(rows: Tensor, weights: Tensor, ends: Tensor, bias: Tensor | None = None) -> Tensor:
    """`rows[s] W[e]` for every row s of expert e; rows behind the last end are zeros.

    Args:
        rows: `[rows, in]`, sorted by expert.
        weights: `[experts, in, out]`.
        ends: `[experts]`, where each expert's rows end.
        bias: `[experts, out]`.
    """
    experts = weights.shape[0]
    place = torch.arange(rows.shape[0], device=rows.device).unsqueeze(-1)
    expert = (place >= ends).sum(-1)
    every = torch.matmul(rows.unsqueeze(0), weights)
    if bias is not None:
        every = every + bias.unsqueeze(1)
    own = expert.clamp(max=experts - 1).reshape(1, -1, 1).expand(1, *every.shape[1:])
    return every.gather(0, own).squeeze(0) * (expert < experts).to(rows.dtype).unsqueeze(-1)


def grouped_mm(
    tensor: Tensor,
    mat2: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Any:
    """Groups of rows of the left matrix, or of columns of the right one; or one product for each pair of matrices."""
    if offs is None:
        result = torch.bmm(tensor, mat2)
        result = result if bias is None else result + bias.unsqueeze(1)
    elif tensor.dim() == 2 and mat2.dim() == 3:
        result = grouped_rows(tensor, mat2, offs, bias)
    elif tensor.dim() == 3 and mat2.dim() == 2 and bias is None:
        result = grouped_rows(mat2.transpose(0, 1), tensor.transpose(1, 2), offs).transpose(0, 1)
    else:
        return NotImplemented
    return result if out_dtype is None else result.to(out_dtype)


def histogram(tensor: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements lie in each of `bins` equal parts of a range, which ends with its last element."""
    if min == max:  # the range of the values themselves
        return NotImplemented
    values = tensor.flatten()
    part = ((values - min) * bins / (max - min)).floor().clamp(max=bins - 1)
    inside = (values >= min) & (values <= max)
    counted = (part.unsqueeze(-1) == torch.arange(bins, device=tensor.device)) & inside.unsqueeze(-1)
    return counted.to(tensor.dtype).sum(0)


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten._grouped_mm.default: grouped_mm,
    aten.histc.default: histogram,
}
OF_LIBRARIES: dict[str, Callable[..., Tensor]] = {"transformers::grouped_mm_fallback": grouped_rows}
"""Ops that a library registers, if it has been imported."""
