"""Normalisations with their statistic frozen: what is left is linear (mean subtraction, scale, affine).

Source: Ali et al., "XAI for Transformers", ICML 2022, arXiv 2202.07304; Achtibat et al., arXiv 2402.05602.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_map import LinearMap, Term, Weight
from .op import Op, only
from .registry import operator

aten = torch.ops.aten


@operator(aten.layer_norm.default, kind="normalization", family="linear map", rule="epsilon", when=only("input"))
def layer_norm(op: Op) -> LinearMap:
    """`(x − mean x) · r ⊙ w + b` over the last dims, with r = 1/√(var x + ε) held fixed."""
    dims = list(range(-len(op.option("normalized_shape")), 0))

    def scaled(tensor: Tensor) -> Tensor:
        x = op.tensor("input")
        centred = x - x.mean(dims, keepdim=True)
        return tensor * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + op.option("eps"))

    def apply(x: Tensor, weight: Weight) -> Tensor:
        y = scaled(x - x.mean(dims, keepdim=True))
        return y * op.tensor("weight") if op.has("weight") else y

    def transpose(q: Tensor, weight: Weight) -> Tensor:
        h = q * op.tensor("weight") if op.has("weight") else q
        return scaled(h - h.mean(dims, keepdim=True))

    constants = {"bias": lambda: op.tensor("bias")} if op.has("bias") else {}
    return LinearMap((Term("input", apply, transpose, splits=False),), constants)


@operator(aten.batch_norm.default, kind="batch norm", family="linear map", rule="epsilon", when=only("input"))
def batch_norm(op: Op) -> LinearMap:
    """Eval-mode batch norm, an affine map per channel: `x ⊙ w·r + (b − w·r·μ)`, r = 1/√(σ² + ε)."""
    shape = [1, -1] + [1] * (op.rank("input") - 2)

    def scale() -> Tensor:
        r = torch.rsqrt(op.tensor("running_var") + op.option("eps"))
        return (r * op.tensor("weight") if op.has("weight") else r).view(shape)

    def shift() -> Tensor:
        moved = -op.tensor("running_mean").view(shape) * scale()
        return moved + op.tensor("bias").view(shape) if op.has("bias") else moved

    term = Term(
        "input", apply=lambda x, weight: x * weight, transpose=lambda q, weight: q * weight, weight=scale, fan_in=1
    )
    return LinearMap((term,), {"bias": shift})
