"""Embedding lookups."""

from __future__ import annotations

import torch
from torch import Tensor

from .op import Op, only
from .registry import Flow, family_rule, operator
from .relevance import Relevance, total

aten = torch.ops.aten


@operator(aten.embedding.default, kind="embedding", family="embedding", rule="rows", when=only("indices"))
def embedding(op: Op) -> str:
    """Rows of `weight`, looked up by `indices`."""
    return "indices"


@operator(aten.index.Tensor, kind="embedding", family="embedding", rule="rows", when=only("indices.0"))
def indexed_table(op: Op) -> str:
    """`table[indices]`: the same, written as an index into a constant."""
    return "indices.0"


@family_rule("embedding", "rows")
def rows(op: Op, operand: str, relevance: Relevance) -> Flow:
    """Relevance stays with the looked-up row: the index gets the sum over its features, in total form."""
    R: Tensor = op.total(relevance)
    features = range(op.rank(operand), R.dim())
    return {operand: total(R.sum(list(features)) if features else R)}
