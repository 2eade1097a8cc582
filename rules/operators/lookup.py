"""Embedding lookups."""

from __future__ import annotations

import torch

from lrp_compiler.rules.conditions import only
from lrp_compiler.rules.embedding import into_rows
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import operator
from lrp_compiler.rules.selection import Selection, selection

aten = torch.ops.aten


@operator(
    aten.embedding.default,
    kind="embedding",
    family="embedding",
    rule="rows",
    when=only("indices"),
    indices=("indices",),
)
def embedding(op: Op) -> str:
    """Rows of `weight`, looked up by `indices`."""
    return "indices"


@operator(
    aten.index.Tensor, kind="embedding", family="embedding", rule="rows", when=only("indices.0"), indices=("indices.0",)
)
def indexed_table(op: Op) -> str:
    """`table[indices]`: the same, written as an index into a constant."""
    return "indices.0"


@selection(aten.embedding.default, when=only("weight"))
def looked_up(op: Op) -> Selection:
    """Rows of a table whose own relevance is asked for, at places that carry none."""
    return {"weight": lambda r: into_rows(op, "weight", "indices", r)}
