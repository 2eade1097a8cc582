"""Losses, of the outputs and what they should be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op


@onnx_op("NegativeLogLikelihoodLoss")
def negative_log_likelihood(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`−x[target]`, weighted by class."""
    whole = target.to(torch.int64)
    ignored = torch.zeros_like(whole, dtype=torch.bool) if ignore_index is None else whole == ignore_index
    places = torch.where(ignored, torch.zeros_like(whole), whole)
    picked = -torch.gather(x, 1, places.unsqueeze(1)).squeeze(1)
    weights = torch.ones_like(picked) if weight is None else weight[places]
    weights = torch.where(ignored, torch.zeros_like(weights), weights)
    loss = picked * weights
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / weights.sum()


@onnx_op("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    outputs: int = 1,
) -> Any:
    """The same of the logarithm of the softmax, which may be handed out besides."""
    logs = torch.log_softmax(x, 1)
    loss = negative_log_likelihood(logs, target, weight, ignore_index=ignore_index, reduction=reduction)
    return (loss, logs) if outputs > 1 else loss
