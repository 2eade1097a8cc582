"""Functions between layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lrp_compiler.base.errors import CaptureError

from ..registry import Known, onnx_op
from ..sizes import Sizes

SIXTH = 1e-6
"""How far from 1 six sixths may be in float32."""


@onnx_op("Relu")
def relu(x: Tensor) -> Tensor:
    """`max(x, 0)`."""
    return torch.relu(x)


@onnx_op("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """`x`, and `alpha · x` below 0."""
    return F.leaky_relu(x, alpha)


@onnx_op("PRelu", since=7)
def parametric_relu(x: Tensor, slope: Tensor) -> Tensor:
    """`x`, and `slope · x` below 0."""
    per_channel = x.dim() > 1 and slope.dim() == x.dim() - 1 and slope.numel() == slope.shape[0] == x.shape[1]
    if slope.numel() == 1 or per_channel:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, slope * x, x)


@onnx_op("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`x`, and `alpha (eˣ − 1)` below 0."""
    return F.elu(x, alpha)


@onnx_op("Selu")
def selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    """`gamma` times the ELU."""
    return F.elu(x, alpha) * gamma


@onnx_op("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`x`, and `alpha (e^(x/alpha) − 1)` below 0."""
    return F.celu(x, alpha)


@onnx_op("Sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """`1 / (1 + e⁻ˣ)`."""
    return torch.sigmoid(x)


@onnx_op("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """`alpha · x + beta` between 0 and 1: torch's, `x/6 + 1/2`, which the rules know for a gate."""
    scale, shift = 6 * alpha, 6 * (beta - 0.5)
    x = x if abs(scale - 1) < SIXTH else x * scale
    return F.hardsigmoid(x + shift if shift else x)


@onnx_op("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """`x · clamp(x/6 + 1/2, 0, 1)`."""
    return F.hardswish(x)


@onnx_op("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`x · σ(alpha x)`."""
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


@onnx_op("SwiGLU")
def swiglu(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`swish(gate) · x`."""
    return swish(gate, alpha=alpha) * x


@onnx_op("Softplus")
def softplus(x: Tensor) -> Tensor:
    """`log(1 + eˣ)`."""
    return F.softplus(x)


@onnx_op("Softsign")
def softsign(x: Tensor) -> Tensor:
    """`x / (1 + |x|)`."""
    return F.softsign(x)


@onnx_op("Mish")
def mish(x: Tensor) -> Tensor:
    """`x · tanh(softplus(x))`."""
    return F.mish(x)


@onnx_op("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """`x · Φ(x)`, or its approximation by tanh."""
    return F.gelu(x, approximate=approximate)


@onnx_op("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`x` above `alpha`, and else 0."""
    return F.threshold(x, alpha, 0.0)


@onnx_op("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """`x ∓ bias` outside of ±`lambd`, and else 0."""
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


@onnx_op("Dropout", since=7)
def dropout(
    x: Tensor,
    ratio_input: Tensor | None = None,
    training_mode: Known | None = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    """Nothing at inference; the mask is full of ones.

    Raises:
        CaptureError: in training it draws random numbers; or an input of the file says whether it does.
    """
    if training_mode is not None and not (isinstance(training_mode, Sizes) and not training_mode.one()):
        raise CaptureError(
            "A Dropout in training mode draws random numbers, so that no two explanations would be of one output: "
            "write the file for inference, or hold the input that decides it constant, as in "
            "from_onnx(model, constants={'training': False})."
        )
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


@onnx_op("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Along an axis."""
    return torch.softmax(x, axis)


@onnx_op("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Along an axis."""
    return torch.log_softmax(x, axis)


@onnx_op("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """1 at the first largest element along an axis."""
    largest = torch.argmax(x, axis, keepdim=True)
    places = torch.arange(x.shape[axis], device=x.device)
    shape = [1] * x.dim()
    shape[axis] = x.shape[axis]
    return (places.reshape(shape) == largest).to(x.dtype)


@onnx_op("Softmax")
def softmax_of_rest(x: Tensor, *, axis: int = 1) -> Tensor:
    """Over all dims from `axis` on, as one (until opset 12)."""
    return _over_rest(softmax, x, axis)


@onnx_op("LogSoftmax")
def log_softmax_of_rest(x: Tensor, *, axis: int = 1) -> Tensor:
    """Over all dims from `axis` on, as one (until opset 12)."""
    return _over_rest(log_softmax, x, axis)


@onnx_op("Hardmax")
def hardmax_of_rest(x: Tensor, *, axis: int = 1) -> Tensor:
    """Over all dims from `axis` on, as one (until opset 12)."""
    return _over_rest(hardmax, x, axis)


def _over_rest(function: Callable[..., Tensor], x: Tensor, axis: int) -> Tensor:
    if axis % x.dim() == x.dim() - 1:
        return function(x, axis=-1)
    return function(x.flatten(axis % x.dim()), axis=-1).reshape(x.shape)
