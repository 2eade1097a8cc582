"""What operators did in opset 6, of which many files of PyTorch's first years are: broadcasting along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op
from .elementwise import COMPARISONS, LOGICAL, add, divide, multiply, power, subtract
from .normalisation import batch_norm as present_batch_norm
from .products import gemm as present_gemm

BROADCASTING: dict[str, Callable[..., Any]] = {
    "Add": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Pow": power,
    **{name: COMPARISONS[name] for name in ("Equal", "Greater", "Less")},
    **{name: LOGICAL[name] for name in ("And", "Or", "Xor")},
}
END = 7
"""The opset from which on they broadcast as numpy does."""


def _along_axis(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(a: Tensor, b: Tensor, *, axis: int | None = None, broadcast: int = 0) -> Any:
        if broadcast and axis is not None:
            b = b.reshape(*b.shape, *[1] * (a.dim() - axis % a.dim() - b.dim()))
        return function(a, b)

    return run


for _name, _function in BROADCASTING.items():
    onnx_op(_name)(_along_axis(_function))


@onnx_op("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """`alpha · A B + beta · C`."""
    return present_gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


@onnx_op("BatchNormalization")
def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    is_test: int = 0,
    momentum: float = 0.9,
    spatial: int = 1,
    consumed_inputs: list[int] | None = None,
) -> Tensor:
    """By the statistics of training."""
    return present_batch_norm(x, scale, bias, mean, variance, epsilon=epsilon, spatial=spatial)


@onnx_op("Dropout")
def dropout(x: Tensor, *, is_test: int = 0, ratio: float = 0.5, outputs: int = 1) -> Any:
    """Nothing at inference."""
    return x if outputs == 1 else (x, torch.ones_like(x))


@onnx_op("PRelu")
def parametric_relu(x: Tensor, slope: Tensor) -> Tensor:
    """`x`, and the channel's slope times x below 0."""
    return torch.nn.functional.prelu(x, slope.reshape(-1))
