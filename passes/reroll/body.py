"""One step of a loop as a graph of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import fx

from lrp_compiler.torch_private import pytree

from .reading import Place
from .steps import Carried, Column, Counter, Each, Local, NotRepeated, Same, Steps

aten = torch.ops.aten
T = TypeVar("T")
State = tuple[int, tuple[fx.Node, ...]]
"""The place of a value of so many steps ago as there are nodes, which stand for it before the first step, in order."""


class Body:
    """Collects what a step needs, then is made a graph.

    Args:
        steps: the loop that is written out.
        reads: places that read of a sequence.
        writes: places that write into one.
    """

    def __init__(self, steps: Steps, reads: Mapping[int, Place], writes: Mapping[int, Place]) -> None:
        self._steps, self._reads, self._writes = steps, reads, writes
        self.asked: list[int] = []
        self._needed: set[int] = set()
        self._states: list[State] = []
        self.slices: list[Place | Each] = []
        self.constants: list[fx.Node] = []

    @property
    def states(self) -> list[tuple[fx.Node, fx.Node]]:
        """What each state starts from, and what the first step makes of it, or of the state before."""
        return [(before[0], self._steps.first[place]) for place, before in self._states]

    def need(self, place: int) -> None:
        """A value that is asked for outside."""
        if place in self.asked:
            return
        self.asked.append(place)
        waiting = [place]
        while waiting:
            place = waiting.pop()
            if place in self._needed:
                continue
            if place in self._writes:
                raise NotRepeated(f"{self._steps.first[place].name} is read before all of it is written")
            self._needed.add(place)
            if place in self._reads:
                _once(self.slices, self._reads[place])
                continue
            for column in self._steps.columns[place]:
                if isinstance(column, Local | Carried):
                    waiting.append(column.place)
                if isinstance(column, Carried):
                    for start in range(column.lag):
                        _once(self._states, (column.place, column.first[start:]))
                elif isinstance(column, Each):
                    _once(self.slices, column)
                elif isinstance(column, Same) and isinstance(column.value, fx.Node):
                    _once(self.constants, column.value)

    def is_state(self, place: int) -> bool:
        """Whether the loop hands on the value from step to step."""
        return any(at == place and len(before) == 1 for at, before in self._states)

    def state_number(self, place: int) -> int:
        """Which state that is."""
        return next(at for at, (one, before) in enumerate(self._states) if one == place and len(before) == 1)

    def module(self, root: torch.nn.Module, results: Sequence[int]) -> fx.GraphModule:
        """The step's graph: `(*states, *slices, *constants) → (*states, *results)`."""
        graph = fx.Graph()
        nodes = self._steps.first
        states = {
            state: self._placeholder(graph, f"state_{at}", nodes[state[0]]) for at, state in enumerate(self._states)
        }
        slices: dict[Place | Each, fx.Node] = {}
        for at, given in enumerate(self.slices):
            slices[given] = graph.placeholder(f"slice_{at}")
        constants = {one: self._placeholder(graph, f"constant_{at}", one) for at, one in enumerate(self.constants)}
        values: dict[int, fx.Node] = {}

        def value(column: Column) -> object:
            if isinstance(column, Local):
                return values[column.place]
            if isinstance(column, Carried):
                return states[column.place, column.first]
            if isinstance(column, Each):
                return slices[column]
            if isinstance(column, Counter):
                raise NotRepeated("a step takes a number that is another one at every step")
            return constants.get(column.value, column.value) if isinstance(column.value, fx.Node) else column.value

        for place in sorted(self._needed):
            node = nodes[place]
            if place in self._reads:
                read = self._reads[place]
                found = slices[read]
                values[place] = graph.call_function(aten.unsqueeze.default, (found, read.dim)) if read.flat else found
                continue
            spec = pytree.tree_structure((node.args, node.kwargs))
            args, kwargs = pytree.tree_unflatten([value(one) for one in self._steps.columns[place]], spec)
            values[place] = graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
            values[place].meta.update(node.meta)
        handed = [states[at, before[1:]] if before[1:] else values[at] for at, before in self._states]
        handed += [values[place] for place in results]
        # torch's operator takes no result that is another one, or an operand, as it is.
        graph.output(tuple(contiguous(graph, one) for one in handed))
        return fx.GraphModule(root, graph)

    @staticmethod
    def _placeholder(graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
        node = graph.placeholder(name)
        node.meta.update(like.meta)
        return node


def contiguous(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A copy at the insertion point: torch's operator wants a state to have the same strides at every step."""
    return graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})


def _once(known: list[T], one: T) -> None:
    if one not in known:
        known.append(one)
