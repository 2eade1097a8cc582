"""Lookups: elements of a table, by integers.

A table that carries relevance takes all of it: it is a selection, whatever its indices are. Of a constant table (an
embedding) it is the index that stands for what was looked up.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import Condition, only, predicate
from lrp_compiler.rules.embedding import Lookup
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import Describe, Overload, Register, operator
from lrp_compiler.rules.relevance import sum_to_shape
from lrp_compiler.rules.selection import Selection, Transpose, selection
from lrp_compiler.rules.traits import declare, keeps_sign

aten = torch.ops.aten

declare(aten.bucketize.Tensor, aten.searchsorted.Tensor, bins=True)
declare(aten.index.Tensor, counted_by=("indices",))
declare(aten.masked_select.default, counted_by=("mask",))
declare(aten.repeat_interleave.self_Tensor, counted_by=("repeats",))

SAME_SIGN = keeps_sign()
of_values = predicate(lambda op: op.is_active("self"))
"""The table itself carries relevance."""


def lookup(*targets: Overload, indices: tuple[str, ...], when: Condition) -> Register[Describe]:
    """Register how a constant table is looked up."""
    return operator(
        *targets, kind="embedding", family="embedding", rule="rows", channels=-1, indices=indices, when=when
    )


@lookup(aten.embedding.default, indices=("indices",), when=only("indices"))
def embedding(op: Op) -> Lookup:
    """Rows of `weight`."""
    features = list(range(-(op.rank("weight") - 1), 0))
    return Lookup({"indices": lambda R: R.sum(features)}, {"weight": partial(_into_rows, op)})


@selection(aten.embedding.default, when=only("weight"))
def looked_up(op: Op) -> Selection:
    """Rows of a table that carries relevance, or whose own is asked for."""
    return {"weight": partial(_into_rows, op)}


def _into_rows(op: Op, r: Tensor) -> Tensor:
    """Relevance of what was looked up, added up by row of the table."""
    shape = op.shape("weight")
    zeros = torch.zeros(shape, dtype=r.dtype, device=r.device)
    return zeros.index_add(0, op.tensor("indices").flatten(), r.reshape(-1, *shape[1:]))


@selection(aten.index.Tensor, when=of_values, sign=SAME_SIGN)
def index(op: Op) -> Selection:
    """Advanced indexing: every value's relevance is added where it came from."""
    return {"self": _from_places(op)}


MOST_INDICES = 8


@lookup(aten.index.Tensor, indices=tuple(f"indices.{place}" for place in range(MOST_INDICES)), when=~of_values)
def indexed_table(op: Op) -> Lookup:
    """`table[i, :, j]`: what the indices name stands together in the result, in front if they do not in the table."""
    given = [place for place, item in enumerate(op.option("indices")) if item is not None]
    names = {place: f"indices.{place}" for place in given}
    rank = max(op.rank(name) for name in names.values())
    start = given[0] if given == list(range(given[0], given[-1] + 1)) else 0

    def share(name: str) -> Transpose:
        def summed(R: Tensor) -> Tensor:
            others = [dim for dim in range(R.dim()) if not start <= dim < start + rank]
            return sum_to_shape(R.sum(others) if others else R, op.shape(name))

        return summed

    return Lookup({name: share(name) for name in names.values()}, {"self": _from_places(op)})


def _from_places(op: Op) -> Transpose:
    def transposed(r: Tensor) -> Tensor:
        given = [place for place, item in enumerate(op.option("indices")) if item is not None]
        if len(given) == 1 and op.dtype(f"indices.{given[0]}") == torch.bool:
            return _from_mask(r, op.tensor(f"indices.{given[0]}"), given[0])
        indices = [
            None if item is None else op.tensor(f"indices.{position}")
            for position, item in enumerate(op.option("indices"))
        ]
        zeros = torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device)
        routed: Tensor = aten.index_put.default(zeros, indices, r, True)
        return routed

    return transposed


@selection(aten.masked_select.default, sign=SAME_SIGN, picks_by=("mask",))
def masked_select(op: Op) -> Selection:
    """The masked elements in order, after tensor and mask were broadcast."""

    def transposed(r: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(op.shape("self"), op.shape("mask"))
        return sum_to_shape(_from_mask(r, op.tensor("mask").expand(shape), 0), op.shape("self"))

    return {"self": transposed}


def _from_mask(r: Tensor, mask: Tensor, dim: int) -> Tensor:
    """What was masked put back in its order, zeros elsewhere: the first slice stands for those.

    How many there are is not known before the run; nothing here depends on it.
    """
    flat = mask.flatten().to(torch.int64)
    nothing = torch.zeros([*r.shape[:dim], 1, *r.shape[dim + 1 :]], dtype=r.dtype, device=r.device)
    spread = torch.cat([nothing, r], dim).index_select(dim, flat.cumsum(0) * flat)
    return spread.reshape([*r.shape[:dim], *mask.shape, *r.shape[dim + 1 :]])


@selection(aten.index_select.default, when=of_values, sign=SAME_SIGN)
def index_select(op: Op) -> Selection:
    """Slices by number."""
    return {"self": _from_slices(op)}


@lookup(aten.index_select.default, indices=("index",), when=~of_values)
def selected_table(op: Op) -> Lookup:
    """Slices of a constant."""

    def share(R: Tensor) -> Tensor:
        dim = op.option("dim") % max(R.dim(), 1)
        others = [other for other in range(R.dim()) if other != dim]
        return (R.sum(others) if others else R).reshape(op.shape("index"))

    return Lookup({"index": share}, {"self": _from_slices(op)})


def _from_slices(op: Op) -> Transpose:
    def transposed(r: Tensor) -> Tensor:
        zeros = torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device)
        return zeros.index_add(op.option("dim"), op.tensor("index"), r)

    return transposed


@selection(aten.gather.default, when=of_values, sign=SAME_SIGN)
def gather(op: Op) -> Selection:
    """One element for each index."""
    return {"self": _from_elements(op)}


@lookup(aten.gather.default, indices=("index",), when=~of_values)
def gathered_table(op: Op) -> Lookup:
    """Elements of a constant."""
    return Lookup({"index": lambda R: R}, {"self": _from_elements(op)})


def _from_elements(op: Op) -> Transpose:
    def transposed(r: Tensor) -> Tensor:
        zeros = torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device)
        return zeros.scatter_add(op.option("dim"), op.tensor("index"), r)

    return transposed
