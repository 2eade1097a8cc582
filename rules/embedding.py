"""Lookups: what an index gets of the row that it looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .op import Op
from .registry import Flow, family_rule
from .relevance import Relevance, total

Share = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lookup:
    """Elements of a constant table, by integers that carry relevance.

    Args:
        index: by operand: relevance of the result → of that index, summed over what one index looked up.
        table: by operand: relevance of the result → of the table's elements.
    """

    index: Mapping[str, Share]
    table: Mapping[str, Share] = field(default_factory=dict)


@family_rule("embedding", "rows")
def rows(op: Op, lookup: Lookup, relevance: Relevance) -> Flow:
    """Relevance stays with what was looked up: its index gets the sum, in total form; several share alike."""
    R: Tensor = op.total(relevance)
    each = R / len(op.active) if len(op.active) > 1 else R
    flow: dict[str, Relevance | None] = {name: total(lookup.index[name](each)) for name in op.active}
    # The table's own relevance is the same, by row instead of by place.
    return flow | {table: total(lookup.table[table](R)) for table in op.wanted}
