"""Normalisations with their statistic frozen: what is left is linear (mean subtraction, scale, affine).

Source: Ali et al., "XAI for Transformers", ICML 2022, arXiv 2202.07304; Achtibat et al., arXiv 2402.05602.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import only
from lrp_compiler.rules.linear_map import Constant, LinearMap, Term, scaled
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import operator
from lrp_compiler.rules.relevance import sum_to_shape

from .linear import bias_of

aten = torch.ops.aten


@operator(
    aten.layer_norm.default, kind="normalization", channels=-1, family="linear map", rule="epsilon", when=only("input")
)
def layer_norm(op: Op) -> LinearMap:
    """`(x − mean x) · r ⊙ w + b` over the last dims, with r = 1/√(var x + ε) held fixed."""
    dims = list(range(-len(op.option("normalized_shape")), 0))

    def normalised(tensor: Tensor) -> Tensor:
        x = op.tensor("input")
        centred = x - x.mean(dims, keepdim=True)
        scale = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + op.option("eps"))
        return (tensor - tensor.mean(dims, keepdim=True)) * scale

    term = Term(
        "input",
        apply=lambda x, weight: scaled(normalised(x), weight),
        transpose=lambda q, weight: normalised(scaled(q, weight)),
        weight=lambda: op.tensor("weight") if op.has("weight") else 1.0,
        parameter="weight",
        scales=True,
        weigh=lambda q, x: sum_to_shape(q * normalised(x), op.shape("weight")),
        splits=False,
    )
    return LinearMap((term,), bias_of(op))


@operator(
    aten.batch_norm.default, kind="batch norm", channels=1, family="linear map", rule="epsilon", when=only("input")
)
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
        "input",
        apply=lambda x, weight: x * weight,
        transpose=lambda q, weight: q * weight,
        weight=scale,
        parameter="weight",
        scales=True,
        weigh=lambda q, x: sum_to_shape(q * x, scale().shape),
        channel=1,
    )
    return LinearMap((term,), (Constant("bias", shift, "bias"),))
