"""What onnxruntime's optimisers write in place of several operators: activations, maps and norms with what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import onnx_op
from ..sizes import Sizes
from . import activations
from .convolution import conv
from .elementwise import clip_by_attributes
from .images import grid_sample
from .indexing import gather_nd
from .normalisation import layer_norm, rms_norm
from .pads import pad
from .pooling import max_pool
from .products import gemm
from .quantised_layers import MICROSOFT, as_it_was, channels_first
from .shapes import triangle

Parameters = list[float]
ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "": lambda x: x,
    "Relu": activations.relu,
    "Sigmoid": activations.sigmoid,
    "Tanh": lambda x: torch.tanh(x),
    "LeakyRelu": lambda x, alpha=0.01: activations.leaky_relu(x, alpha=alpha),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: activations.hard_sigmoid(x, alpha=alpha, beta=beta),
    "HardSwish": activations.hard_swish,
    "Elu": lambda x, alpha=1.0: activations.elu(x, alpha=alpha),
    "Selu": lambda x, alpha=1.6732632423543772, gamma=1.0507009873554805: activations.selu(x, alpha=alpha, gamma=gamma),
    "Softplus": activations.softplus,
    "Softsign": activations.softsign,
    "Clip": lambda x, low=float("-inf"), high=float("inf"): clip_by_attributes(x, min=low, max=high),
}
"""What may follow a map, as a function of it and of the parameters that are listed with it."""


@onnx_op("FusedConv", domain=MICROSOFT, options_of=conv)
def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Parameters | None = None,
    **options: Any,
) -> Tensor:
    """A convolution, what is added to it, and the activation of that."""
    y = conv(x, weight, bias, **options)
    return ACTIVATIONS[activation](y if added is None else y + added, *(activation_params or ()))


@onnx_op("NhwcConv", "NhwcFusedConv", domain=MICROSOFT, options_of=conv)
def conv_of_channels_last(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Parameters | None = None,
    **options: Any,
) -> Tensor:
    """The same of tensors whose channels are the last dim."""
    skip = None if added is None else channels_first(added, 1)
    options |= {"activation": activation, "activation_params": activation_params}
    return as_it_was(fused_conv(channels_first(x, 1), weight, bias, skip, **options), 1)


@onnx_op("FusedGemm", domain=MICROSOFT)
def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """A Gemm and its activation."""
    given = [one for one in (activation_alpha, activation_beta, activation_gamma) if one is not None]
    return ACTIVATIONS[activation](gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB), *given)


@onnx_op("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """`alpha · A B`; the first dim of each may come before those of the batch, its last two be transposed."""
    a, b = _turned(a, transA, transBatchA), _turned(b, transB, transBatchB)
    product = torch.matmul(a, b)
    return product if alpha == 1 else product * alpha


def _turned(x: Tensor, last_two: int, batch: int) -> Tensor:
    x = x.movedim(0, -2) if batch else x
    return x.transpose(-1, -2) if last_two and x.dim() > 1 else x


@onnx_op("FusedMatMulActivation", domain=MICROSOFT)
def fused_matmul_activation(
    a: Tensor,
    b: Tensor,
    *,
    activation: str,
    activation_alpha: float | None = None,
    activation_axis: int | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """The same and its activation."""
    turned = {"transA": transA, "transB": transB, "transBatchA": transBatchA, "transBatchB": transBatchB}
    y = fused_matmul(a, b, alpha=alpha, **turned)
    if activation == "Softmax":
        return torch.softmax(y, -1 if activation_axis is None else activation_axis)
    given = [one for one in (activation_alpha, activation_beta, activation_gamma) if one is not None]
    return ACTIVATIONS[activation](y, *given)


@onnx_op("Gelu", domain=MICROSOFT)
def gelu(x: Tensor) -> Tensor:
    """`x Φ(x)`."""
    return F.gelu(x)


@onnx_op("BiasGelu", domain=MICROSOFT)
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The GELU of a sum."""
    return F.gelu(x + bias)


@onnx_op("FastGelu", domain=MICROSOFT)
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """By the hyperbolic tangent (Hendrycks and Gimpel, 2016)."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@onnx_op("GemmFastGelu", domain=MICROSOFT)
def gemm_fast_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same of a product of matrices."""
    return fast_gelu(torch.matmul(x, weight), bias)


@onnx_op("QuickGelu", domain=MICROSOFT)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """`x · σ(alpha x)`."""
    return activations.swish(x, alpha=alpha)


@onnx_op("ScaledSiLU", domain=MICROSOFT)
def scaled_silu(x: Tensor, scale: Tensor | None = None, *, alpha: float = 1.0) -> Tensor:
    """The SiLU of a multiple."""
    return F.silu(x * (alpha if scale is None else scale))


@onnx_op("SwiGLU", domain=MICROSOFT)
def swiglu(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    activation_alpha: float = 1.0,
    activation_beta: float = 0.0,
    limit: float = 0.0,
    round_activation: int = 0,
) -> Tensor:
    """`swish(gate) · (up + beta)`, both kept below a limit; without `up`, the second half of the gate is that."""
    if up is None:
        gate, up = gate.chunk(2, -1)
    if limit > 0:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return activations.swish(gate, alpha=activation_alpha) * (up if activation_beta == 0 else up + activation_beta)


@onnx_op("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The first half of a sum times the GELU of the second."""
    left, right = (x + bias).chunk(2, -1)
    return left * F.gelu(right)


@onnx_op("BiasAdd", domain=MICROSOFT)
def bias_add(x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """A bias and what was skipped."""
    return x + bias + skip


@onnx_op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> Any:
    """The layer norm of a sum, the statistics, and the sum itself."""
    whole = x + skip if bias is None else x + skip + bias
    return (*layer_norm(whole, gamma, beta, epsilon=epsilon, outputs=3), whole)


@onnx_op("SimplifiedLayerNormalization")
@onnx_op("SimplifiedLayerNormalization", domain=MICROSOFT)
def simplified_layer_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, outputs: int = 1
) -> Any:
    """By the root of the mean square; 1 over that besides, if it is asked for."""
    y = rms_norm(x, scale, axis=axis, epsilon=epsilon, stash_type=stash_type)
    return (y, _inverse_root(x, axis, epsilon)) if outputs > 1 else y


def _inverse_root(x: Tensor, axis: int, epsilon: float) -> Tensor:
    dims = list(range(axis % x.dim(), x.dim()))
    return torch.rsqrt(x.float().square().mean(dims, keepdim=True) + epsilon)


@onnx_op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_norm(
    x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> Any:
    """The same of a sum: the norm, nothing for the mean, the statistic, and the sum itself."""
    whole = x + skip if bias is None else x + skip + bias
    return rms_norm(whole, gamma, epsilon=epsilon), None, _inverse_root(whole, -1, epsilon), whole


onnx_op("LayerNormalization", domain=MICROSOFT)(layer_norm)


@onnx_op("GroupNorm", domain=MICROSOFT)
def group_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    activation: int,
    groups: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Tensor:
    """By the statistics of groups of channels, and the SiLU of it where that is asked for."""
    y = as_it_was(F.group_norm(channels_first(x, channels_last), groups, gamma, beta, epsilon), channels_last)
    return F.silu(y) if activation else y


@onnx_op("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    skip: Tensor,
    bias: Tensor | None = None,
    *,
    activation: int,
    groups: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Any:
    """The same of a sum, and the sum itself."""
    flat = skip if skip.dim() == x.dim() else skip.reshape(skip.shape[0], *[1] * (x.dim() - 2), -1)
    whole = x + flat if bias is None else x + flat + bias
    options = {"activation": activation, "groups": groups, "channels_last": channels_last}
    return group_norm(whole, gamma, beta, epsilon=epsilon, **options), whole


@onnx_op("BiasDropout", domain=MICROSOFT)
def bias_dropout(
    x: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    ratio: Tensor | None = None,
    training_mode: Tensor | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """A sum: nothing is dropped but in training."""
    return x + bias if residual is None else x + bias + residual


@onnx_op("ExpandDims", domain=MICROSOFT)
def expand_dims(x: Tensor, axis: Sizes) -> Tensor:
    """One more dim."""
    return x.unsqueeze(axis.one())


@onnx_op("GridSample", domain=MICROSOFT)
def sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    """Values at the places that a grid says."""
    return grid_sample(x, grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)


onnx_op("Trilu", domain=MICROSOFT)(triangle)
onnx_op("GatherND", domain=MICROSOFT)(gather_nd)
onnx_op("Pad", domain=MICROSOFT)(pad)


@onnx_op("NhwcMaxPool", domain=MICROSOFT)
def max_pool_of_channels_last(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The largest of each window of tensors whose channels are the last dim."""
    options: dict[str, Any] = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "dilations": dilations}
    return as_it_was(
        max_pool(channels_first(x, 1), kernel_shape=kernel_shape, pads=pads, strides=strides, **options), 1
    )


@onnx_op("Inverse", domain=MICROSOFT)
def inverse(x: Tensor) -> Tensor:
    """Of a matrix."""
    return torch.linalg.inv(x)


@onnx_op("CDist", domain=MICROSOFT)
def distances(a: Tensor, b: Tensor, *, metric: str = "sqeuclidean") -> Tensor:
    """Between all rows of two matrices."""
    squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
    return squares if metric == "sqeuclidean" else squares.sqrt()
