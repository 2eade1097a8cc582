"""Softmax: the rules of an attention pattern."""

from __future__ import annotations

import torch

from .op import Op
from .registry import Flow, family_rule
from .relevance import Relevance, unit


@family_rule("softmax", "taylor")
def taylor(op: Op, dim: int, relevance: Relevance) -> Flow:
    """`R_x = x ⊙ (R − p ⊙ ΣR)`: first-order Taylor expansion of p = softmax(x), with its bias absorbed.

    In unit form `g_x = p ⊙ (g − Σ p ⊙ g)`, the softmax's own transpose, which is 0 where a mask made p = 0 and never
    multiplies −∞. Either way the result is in unit form.

    Source: Achtibat et al., "AttnLRP", arXiv 2402.05602.
    """
    p = op.output
    R = op.total(relevance)
    g = R - p * R.sum(dim, keepdim=True)

    def bias_share() -> torch.Tensor:
        x = op.tensor(op.active[0])
        # p = 0 comes with x = −∞ under a mask; such an element takes part in nothing.
        x = torch.where(p == 0, torch.zeros_like(x), x).to(p.dtype)
        return R * (1 - x + (p * x).sum(dim, keepdim=True))

    op.absorb("softmax", bias_share)
    return {op.active[0]: unit(g.to(op.dtype(op.active[0])))}


@family_rule("softmax", "zero", of_differences=True)
def zero(op: Op, dim: int, relevance: Relevance) -> Flow:
    """The attention pattern takes nothing (CP-LRP: Ali et al., ICML 2022, arXiv 2202.07304)."""
    op.absorb("softmax", lambda: op.total(relevance))
    return dict.fromkeys(op.active)
