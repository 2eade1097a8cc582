"""Softmax, and the logarithm of its denominator."""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_map import UNKNOWN_FAN_IN, Constant, LinearMap, Term
from .op import Op
from .registry import Flow, family_rule, operator
from .relevance import Relevance, normalise_dims, unit

aten = torch.ops.aten


@operator(
    aten.softmax.int, aten._softmax.default, aten._safe_softmax.default, kind="softmax", family="softmax", rule="taylor"
)
def softmax(op: Op) -> int:
    """The dim that is normalised."""
    return int(op.option("dim"))


@family_rule("softmax", "taylor")
def taylor(op: Op, dim: int, relevance: Relevance) -> Flow:
    """`R_x = x ⊙ (R − p ⊙ ΣR)`: first-order Taylor expansion of p = softmax(x), with its bias absorbed.

    In unit form `g_x = p ⊙ (g − Σ p ⊙ g)`, the softmax's own transpose, which is 0 where a mask made p = 0 and never
    multiplies −∞. Either way the result is in unit form.

    Source: Achtibat et al., "AttnLRP", arXiv 2402.05602.
    """
    p = op.output
    R = relevance.tensor * p if relevance.form == "unit" else relevance.tensor
    g = R - p * R.sum(dim, keepdim=True)

    def bias_share() -> torch.Tensor:
        x = op.tensor(op.active[0])
        # p = 0 comes with x = −∞ under a mask; such an element takes part in nothing.
        x = torch.where(p == 0, torch.zeros_like(x), x).to(p.dtype)
        return R * (1 - x + (p * x).sum(dim, keepdim=True))

    op.absorb("softmax", bias_share)
    return {op.active[0]: unit(g.to(op.dtype(op.active[0])))}


@family_rule("softmax", "zero")
def zero(op: Op, dim: int, relevance: Relevance) -> Flow:
    """The attention pattern takes nothing (CP-LRP: Ali et al., ICML 2022, arXiv 2202.07304)."""
    op.absorb("softmax", lambda: op.total(relevance))
    return dict.fromkeys(op.active)


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

    term = Term(
        "self",
        apply=lambda x, weight: (p() * x).sum(dims, keepdim),
        transpose=lambda q, weight: p() * grown(q),
        fan_in=UNKNOWN_FAN_IN,
        splits=False,
    )
    return LinearMap((term,), (Constant("entropy", lambda: torch.special.entr(p()).sum(dims, keepdim)),))
