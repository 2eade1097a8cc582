"""Embedding lookups."""

from __future__ import annotations

import torch
from torch import Tensor

from .op import Op
from .registry import Flow, family_rule, operator
from .relevance import Relevance, total

aten = torch.ops.aten


@operator(aten.embedding.default, kind="embedding", family="embedding", rule="rows")
def embedding(op: Op) -> None:
    """Rows of `weight`, looked up by `indices`."""


@family_rule("embedding", "rows")
def rows(op: Op, description: None, relevance: Relevance) -> Flow:
    """Relevance stays with the looked-up row: the index gets the sum over its features, in total form."""
    R: Tensor = op.total(relevance)
    return {"indices": total(R.sum(-1))} if op.is_active("indices") else {}
