"""Lookups: what an index gets of the row that it looked up."""

from __future__ import annotations

import torch
from torch import Tensor

from .op import Op
from .registry import Flow, family_rule
from .relevance import Relevance, total


@family_rule("embedding", "rows")
def rows(op: Op, operand: str, relevance: Relevance) -> Flow:
    """Relevance stays with the looked-up row: the index gets the sum over its features, in total form."""
    R: Tensor = op.total(relevance)
    features = range(op.rank(operand), R.dim())
    flow: dict[str, Relevance | None] = {operand: total(R.sum(list(features)) if features else R)}
    # The table's own relevance is the same, by row instead of by place.
    flow |= {table: total(into_rows(op, table, operand, R)) for table in op.wanted}
    return flow


def into_rows(op: Op, table: str, indices: str, r: Tensor) -> Tensor:
    """Relevance of what was looked up, added up by row of the table."""
    shape = op.shape(table)
    zeros = torch.zeros(shape, dtype=r.dtype, device=r.device)
    return zeros.index_add(0, op.tensor(indices).flatten(), r.reshape(-1, *shape[1:]))
