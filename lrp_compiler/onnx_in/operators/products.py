"""Products of matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import onnx_op


@onnx_op("MatMul")
def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """As numpy's."""
    if not a.is_floating_point():
        return torch.matmul(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)
    return torch.matmul(a, b)


@onnx_op("Gemm", since=7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """`alpha · A B + beta · C`; A and B transposed first where that is asked for."""
    a = a.T if transA else a
    dense = alpha == 1 and a.is_floating_point()
    if dense and (c is None or (beta == 1 and c.dim() == 1 and c.shape[0] == b.shape[0 if transB else 1])):
        return F.linear(a, b if transB else b.T, c)
    product = torch.matmul(a, b.T if transB else b)
    product = product if alpha == 1 else (product * alpha).to(a.dtype)
    if c is None or beta == 0:
        return product
    return product + (c if beta == 1 else (c * beta).to(a.dtype))


@onnx_op("Einsum")
def einsum(*operands: Tensor, equation: str) -> Tensor:
    """By Einstein's convention."""
    return torch.einsum(equation.replace(" ", ""), *operands)
