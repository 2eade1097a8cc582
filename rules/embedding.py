"""Embedding lookups."""

from __future__ import annotations

import torch
from torch import Tensor

from .op import Op, only
from .registry import Flow, family_rule, operator
from .relevance import Relevance, total
from .selection import Selection, selection

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
    flow: dict[str, Relevance | None] = {operand: total(R.sum(list(features)) if features else R)}
    # The table's own relevance is the same, by row instead of by place.
    flow |= {table: total(_into_rows(op, table, operand, R)) for table in op.wanted}
    return flow


@selection(aten.embedding.default, when=only("weight"))
def looked_up(op: Op) -> Selection:
    """Rows of a table whose own relevance is asked for, at places that carry none."""
    return {"weight": lambda r: _into_rows(op, "weight", "indices", r)}


def _into_rows(op: Op, table: str, indices: str, r: Tensor) -> Tensor:
    shape = op.shape(table)
    zeros = torch.zeros(shape, dtype=r.dtype, device=r.device)
    return zeros.index_add(0, op.tensor(indices).flatten(), r.reshape(-1, *shape[1:]))
