"""Values measured against the mean and the spread of others."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import onnx_op
from ..tensors import dtype_of

AFFINE = {1: 1.0, 2: 0.0}
"""A scale of nothing but ones is none, and so is a bias of zeros."""


@onnx_op("BatchNormalization", since=7)
def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
    outputs: int = 1,
) -> Any:
    """By the statistics of training; with `training_mode` by the batch's own, and the new running ones besides."""
    if not training_mode:
        same = x.dtype == scale.dtype == mean.dtype
        if spatial and same:
            return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
        shape = [1, -1, *[1] * (x.dim() - 2)] if spatial else [1, *scale.shape]
        scale, bias, mean, variance = (one.reshape(shape) for one in (scale, bias, mean, variance))
        wide = x.to(torch.promote_types(x.dtype, mean.dtype))
        return ((wide - mean) / torch.sqrt(variance + epsilon) * scale + bias).to(x.dtype)
    dims = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    own_mean, own_variance = x.mean(dims), x.var(dims, correction=0)
    centred = (x - own_mean.reshape(shape)) / torch.sqrt(own_variance.reshape(shape) + epsilon)
    y = centred * scale.reshape(shape) + bias.reshape(shape)
    running = mean * momentum + own_mean * (1 - momentum), variance * momentum + own_variance * (1 - momentum)
    return (y, *running) if outputs > 1 else y


@onnx_op("InstanceNormalization", neutral=AFFINE)
def instance_norm(x: Tensor, scale: Tensor | None, bias: Tensor | None, *, epsilon: float = 1e-5) -> Tensor:
    """By the statistics of each channel of each row; exporters write a group norm as one without scale and bias."""
    if all(isinstance(size, int) and size == 1 for size in x.shape[2:]):  # torch refuses to measure a single element
        return torch.group_norm(x, x.shape[1], scale, bias, epsilon)
    return F.instance_norm(x, weight=scale, bias=bias, use_input_stats=True, eps=epsilon)


@onnx_op("LayerNormalization", neutral=AFFINE)
def layer_norm(
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> Any:
    """By the statistics over the dims from `axis` on; their mean and 1/σ besides, if they are asked for."""
    axis = axis % x.dim()
    shape = list(x.shape[axis:])
    if all(one is None or list(one.shape) == shape for one in (scale, bias)):
        y = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, shape, None, None, epsilon)
        y = y if scale is None else y * scale
        y = y if bias is None else y + bias
    if outputs == 1:
        return y
    dims = list(range(axis, x.dim()))
    wide = x.to(dtype_of(stash_type, "LayerNormalization"))
    mean = wide.mean(dims, keepdim=True)
    inverse = torch.rsqrt((wide - mean).square().mean(dims, keepdim=True) + epsilon)
    return (y, mean, inverse)[:outputs]


@onnx_op("GroupNormalization", since=18)
def group_norm_by_group(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """By the statistics of groups of channels; a scale and a bias for each group (opset 18)."""
    size = x.shape[1] // num_groups
    return group_norm(
        x, scale.repeat_interleave(size), bias.repeat_interleave(size), num_groups=num_groups, epsilon=epsilon
    )


@onnx_op("GroupNormalization", since=21)
def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """By the statistics of groups of channels; a scale and a bias for each channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@onnx_op("RMSNormalization")
def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    """By the root of the mean square over the dims from `axis` on."""
    dims = list(range(axis % x.dim(), x.dim()))
    wide = x.to(dtype_of(stash_type, "RMSNormalization")) if x.dtype != torch.float64 else x
    return (wide * torch.rsqrt(wide.square().mean(dims, keepdim=True) + epsilon)).to(x.dtype) * scale


@onnx_op("LRN")
def local_response_norm(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """By the squares of the channels around (Krizhevsky et al., 2012)."""
    flat = x.square().reshape(x.shape[0], 1, x.shape[1], prod(x.shape[2:]))
    before = (size - 1) // 2
    squares = F.avg_pool2d(F.pad(flat, [0, 0, before, size - 1 - before]), (size, 1), 1).reshape(x.shape)
    return x / (squares * alpha + bias).pow(beta)


@onnx_op("LpNormalization")
def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """By the norm along an axis; zeros stay."""
    length = x.abs().sum(axis, keepdim=True) if p == 1 else x.square().sum(axis, keepdim=True).sqrt()
    return x / length.clamp_min(torch.finfo(x.dtype).tiny)


@onnx_op("MeanVarianceNormalization")
def mean_variance_norm(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    """Less the mean, by the spread over these dims."""
    dims = axes or [0, 2, 3]
    mean = x.mean(dims, keepdim=True)
    spread = torch.sqrt((x * x).mean(dims, keepdim=True) - mean * mean)
    return (x - mean) / (spread + 1e-9)
