"""Softmax, and the logarithm of its denominator."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.differences import logarithmic_mean, shares_of
from lrp_compiler.rules.linear_map import UNKNOWN_FAN_IN, Constant, LinearMap, Term
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import operator
from lrp_compiler.rules.relevance import normalise_dims
from lrp_compiler.rules.traits import always_nonnegative

aten = torch.ops.aten


@operator(
    aten.softmax.int,
    aten._softmax.default,
    aten._safe_softmax.default,
    kind="softmax",
    family="softmax",
    rule="taylor",
    sign=always_nonnegative,
    squashes=True,
)
def softmax(op: Op) -> int:
    """The dim that is normalised."""
    return int(op.option("dim"))


@operator(aten.logsumexp.default, kind="sum", family="linear map", rule="epsilon")
def logsumexp(op: Op) -> LinearMap:
    """`log Σ exp x = Σ p ⊙ x + H(p)` with p = softmax(x) held fixed; its entropy H takes part as a constant."""
    dims = normalise_dims(op.option("dim"), op.rank("self"))
    keepdim = bool(op.option("keepdim"))

    def grown(tensor: Tensor) -> Tensor:
        for dim in () if keepdim else sorted(dims):
            tensor = tensor.unsqueeze(dim)
        return tensor

    def p() -> Tensor:
        return torch.exp(op.tensor("self") - grown(op.output))

    def between(p: Tensor, there: Tensor) -> Tensor:
        logarithms = op.tensor("self") - grown(op.output), op.there.tensor("self") - grown(op.there.output)
        return shares_of(logarithmic_mean(p, there, logarithms), dims)

    term = Term(
        "self",
        apply=lambda x, weight: (weight * x).sum(dims, keepdim),
        transpose=lambda q, weight: weight * grown(q),
        weight=p,
        fan_in=UNKNOWN_FAN_IN,
        splits=False,
        between=between,
    )
    return LinearMap((term,), (Constant("entropy", lambda: torch.special.entr(p()).sum(dims, keepdim)),))
