"""What steps read of a sequence, and what they write into one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from lrp_compiler.torch_private import OpOverload

from .steps import Carried, Column, Counter, NotRepeated, Same

aten = torch.ops.aten
UNBOUND: dict[object, bool] = {aten.unbind.int: False, aten.split.Tensor: True, aten.chunk.default: True}
"""Ops of which a step takes one result: whether that still has the dim, of size 1."""


@dataclass(frozen=True)
class Place:
    """Where in a sequence a step reads or writes.

    Args:
        source: the sequence; of a chain of writes, what it was before the first.
        dim: along which steps lie.
        counter: the step's place, from the front.
        flat: whether what is read or written has that dim, too, of size 1.
        value: what is written.
    """

    source: fx.Node
    dim: int
    counter: Counter
    flat: bool
    value: Column | None = None

    @property
    def size(self) -> int:
        """Of the sequence."""
        return int(self.source.meta["val"].shape[self.dim])

    def bounds(self, count: int) -> tuple[int, int, int]:
        """Start, end and step of a slice that holds the places of all steps."""
        low, high = sorted((self.counter.first, self.counter.first + (count - 1) * self.counter.by))
        return low, high + 1, abs(self.counter.by)


def read(node: fx.Node, columns: Sequence[Column]) -> Place | None:
    """What the node reads at each step; None: that is no element of a sequence."""
    reader = _READS.get(node.target)
    return None if reader is None else reader(columns)


def written(node: fx.Node, columns: Sequence[Column], place: int) -> Place | None:
    """What the node writes at each step, into what it wrote at the one before; None: it does no such thing."""
    into, *rest = columns
    if node.target not in _WRITES or not isinstance(into, Carried) or (into.place, into.lag) != (place, 1):
        return None
    value, *where = rest
    found = _READS[_WRITES[node.target]]([Same(into.first[0]), *where])
    return None if found is None else Place(found.source, found.dim, found.counter, found.flat, value)


def _place(source: object, dim: object, counter: object, flat: bool) -> Place | None:
    if not (isinstance(source, Same) and isinstance(dim, Same) and isinstance(counter, Counter)):
        return None
    value = source.value.meta["val"]
    along = dim.value % value.dim()
    size = value.shape[along]
    if not isinstance(size, int):
        raise NotRepeated(f"the steps read {source.value.name} along a dim that is open itself")
    first = counter.first + size if counter.first < 0 else counter.first
    return Place(source.value, along, Counter(first, counter.by), flat)


def _select(columns: Sequence[Column]) -> Place | None:
    source, dim, index = columns
    return _place(source, dim, index, False)


def _slice(columns: Sequence[Column]) -> Place | None:
    source, dim, start, end, *step = columns
    one = isinstance(start, Counter) and end == Counter(start.first + 1, start.by) and step in ([], [Same(1)])
    return _place(source, dim, start, True) if one else None


def _getitem(columns: Sequence[Column]) -> Place | None:
    source, index = columns
    made = source.value if isinstance(source, Same) else None
    if not isinstance(made, fx.Node) or made.target not in UNBOUND:
        return None
    dim = made.args[-1] if len(made.args) > 1 + UNBOUND[made.target] else 0
    sizes = {one.shape[int(dim)] for one in made.meta["val"]} if UNBOUND[made.target] else {1}  # type: ignore[arg-type]
    return _place(Same(made.args[0]), Same(dim), index, UNBOUND[made.target]) if sizes == {1} else None


_READS: dict[object, Callable[[Sequence[Column]], Place | None]] = {
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    operator.getitem: _getitem,
}
_WRITES: dict[object, OpOverload] = {
    aten.select_scatter.default: aten.select.int,
    aten.slice_scatter.default: aten.slice.Tensor,
}
"""Write → the read whose operands say where."""
