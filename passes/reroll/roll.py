"""Steps that are written out → one loop, in place.

What a step reads of a sequence (`x[:, t]`) the loop reads step by step; what it leaves to the next one is a state; what
is asked for of every step afterwards (`torch.stack(outputs, 1)`) comes out of the loop stacked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from torch import fx
from torch.fx.node import Argument

from lrp_compiler.passes.graph import TORCHS, arguments, provenance, same_shape

from .body import Body, contiguous
from .reading import Place, read, written
from .steps import Counter, Each, Local, NotRepeated, Steps

aten = torch.ops.aten
LISTS = (aten.stack.default, aten.cat.default)


def roll(module: fx.GraphModule, loops: Sequence[Steps]) -> None:
    """Replace steps by loops, in place.

    Args:
        module: the graph.
        loops: its steps, in the order of the graph.

    Raises:
        NotRepeated: a step does what no loop can.
    """
    rolling = _Rolling(module, loops)
    for steps in loops:
        rolling.replace(steps)
    rolling.finish()


class _Rolling:
    def __init__(self, module: fx.GraphModule, loops: Sequence[Steps]) -> None:
        self.module, self.graph = module, module.graph
        self._inside = {node for steps in loops for node, _, _ in steps.all()}
        self._stacked: dict[fx.Node, tuple[fx.Node, int, int]] = {}
        """A node of a step → what is stacked of all of them, which one it is, and of how many."""
        self._outside: dict[fx.Node, fx.Node] = {}
        """A node of a step → what has its value outside."""
        self._number = 0
        self._origin: dict[str, object] = {}

    def replace(self, steps: Steps) -> None:
        """Put a loop behind its steps."""
        self._origin = _origin(steps)
        mine = {node for node, _, _ in steps.all()}
        asked: dict[int, list[int]] = {}
        for node, at, place in steps.all():
            if any(user not in mine for user in node.users):
                asked.setdefault(place, []).append(at)
        reads: dict[int, Place] = {}
        writes: dict[int, Place] = {}
        for place, columns in enumerate(steps.columns):
            if any(isinstance(column, Counter) for column in columns):
                self._sort(steps, place, reads, writes)
        with _behind(self.graph, steps.last):
            body = Body(steps, reads, writes)
            for place in [*asked, *(_value(steps, write) for write in writes.values())]:
                if place not in reads and place not in writes:
                    body.need(place)
            last = {
                place
                for place, times in asked.items()
                if times == [steps.count - 1] and place not in reads and body.is_state(place)
            }
            results = [place for place in body.asked if place not in last]
            found = self._loop(steps, body, results)
            for place in [*asked, *(_value(steps, write) for write in writes.values())]:
                if place in reads:
                    found[place] = self._as_read(reads[place], steps.count)
            for place in last:
                self._outside[_last(steps, place)] = found.pop(place)
            for place, whole in found.items():
                for node, at, _ in (one for one in steps.all() if one[2] == place):
                    self._stacked[node] = whole, at, steps.count
            for place, write in writes.items():
                values = found[_value(steps, write)]
                self._outside[_last(steps, place)] = self._written(write, values, steps.count)

    def _sort(self, steps: Steps, place: int, reads: dict[int, Place], writes: dict[int, Place]) -> None:
        """What a node does that takes another number at every step."""
        first, columns = steps.first[place], steps.columns[place]
        found = read(first, columns)
        if found is not None:
            reads[place] = found
            return
        found = written(first, columns, place)
        if found is None:
            raise NotRepeated(f"{first.name} takes a number that is another one at every step")
        chain = {node for node, _, at in steps.all() if at == place}
        if any(user not in chain for node in chain - {_last(steps, place)} for user in node.users):
            raise NotRepeated(f"what {first.name} writes into is read before all of it is written")
        writes[place] = found

    def _loop(self, steps: Steps, body: Body, results: Sequence[int]) -> dict[int, fx.Node]:
        """The loop of a body, if it has something to do: by place what is asked for of all steps, or the last state."""
        if not body.asked:
            return {}
        while hasattr(self.module, f"steps_{self._number}"):
            self._number += 1
        name = f"steps_{self._number}"
        self.module.add_module(name, body.module(self.module, results))
        states = [self._first(*state) for state in body.states]
        sources: set[fx.Node] = set()
        slices = []
        for given in body.slices:
            found_one = self._in_front(given, steps.count) if isinstance(given, Place) else self._each(given)
            source = self.outer(given.source) if isinstance(given, Place) else found_one
            # torch's operator takes no two views of one tensor.
            slices.append(self._call(aten.clone.default, found_one) if source in sources else found_one)
            sources.add(source)
        if not slices:
            raise NotRepeated(f"the steps around {steps.first[0].name} read no sequence")
        constants = tuple(self.outer(one) for one in body.constants)
        loop = self._call(TORCHS, self.graph.get_attr(name), states, slices, constants)
        found = {place: self._call(operator.getitem, loop, len(states) + at) for at, place in enumerate(results)}
        for place in body.asked:
            if place not in found:
                found[place] = self._call(operator.getitem, loop, body.state_number(place))
        return found

    def _first(self, first: fx.Node, then: fx.Node) -> fx.Node:
        """The state that a loop starts from, as its steps hand it on."""
        state, one, other = self.outer(first), first.meta["val"], then.meta["val"]
        if not same_shape(first, then):
            raise NotRepeated(f"{then.name}, which starts from {first.name}, has another shape than that")
        if one.dtype != other.dtype:
            if torch.promote_types(one.dtype, other.dtype) != other.dtype:
                raise NotRepeated(f"{then.name}, which starts from {first.name}, has a narrower dtype than that")
            state = self._call(aten._to_copy.default, state)
            state.kwargs = {"dtype": other.dtype}
        return contiguous(self.graph, state)

    def _along(self, source: fx.Node, dim: int, size: int, place: Place, count: int) -> fx.Node:
        low, high, by = place.bounds(count)
        if (low, high, by) != (0, size, 1):
            source = self._call(aten.slice.Tensor, source, dim, low, high, by)
        return self._call(aten.flip.default, source, [dim]) if place.counter.by < 0 else source

    def _in_front(self, place: Place, count: int) -> fx.Node:
        """What is read, of all steps, time in front."""
        found = self._along(self.outer(place.source), place.dim, place.size, place, count)
        return self._call(aten.movedim.int, found, place.dim, 0) if place.dim else found

    def _as_read(self, place: Place, count: int) -> fx.Node:
        """The same, as each step has it."""
        found = self._in_front(place, count)
        return self._call(aten.unsqueeze.default, found, place.dim + 1) if place.flat else found

    def _each(self, column: Each) -> fx.Node:
        """What the steps of an earlier loop made, stacked in the order in which the steps of this one read it."""
        known = [self._stacked.get(value) for value in column.values]
        if None not in known:
            wholes, places, counts = zip(*known, strict=True)
            by = places[1] - places[0]
            if len(set(wholes)) == 1 and all(at == places[0] + by * step for step, at in enumerate(places)):
                place = Place(wholes[0], 0, Counter(places[0], by), False)
                return self._along(wholes[0], 0, counts[0], place, len(known))
        raise NotRepeated(f"{column.values[-1].name} is a value for one step only, and of no loop")

    def _written(self, place: Place, values: fx.Node, count: int) -> fx.Node:
        """What a chain of writes leaves behind."""
        low, high, by = place.bounds(count)
        if place.counter.by < 0:
            values = self._call(aten.flip.default, values, [0])
        values = self._from_front(values, place.dim, place.flat)
        if (low, high, by) == (0, place.size, 1):
            return values
        return self._call(aten.slice_scatter.default, self.outer(place.source), values, place.dim, low, high, by)

    def _from_front(self, stacked: fx.Node, dim: int, flat: bool) -> fx.Node:
        """Time from the front to its dim, or to lie within the dim of that number."""
        found = self._call(aten.movedim.int, stacked, 0, dim) if dim else stacked
        return self._call(aten.flatten.using_ints, found, dim, dim + 1) if flat else found

    def outer(self, value: fx.Node) -> fx.Node:
        """A value as it stands outside of all steps."""
        if value not in self._inside:
            return value
        if value not in self._outside:
            if value not in self._stacked:
                raise NotRepeated(f"{value.name} is read outside of its loop, which has no such value")
            whole, at, _ = self._stacked[value]
            self._outside[value] = self._call(aten.select.int, whole, 0, at)
            self._outside[value].meta["val"] = value.meta["val"]
        return self._outside[value]

    def _call(self, target: Callable[..., object], *args: Argument) -> fx.Node:
        """A call at the insertion point, in the module that the steps are in."""
        node = self.graph.call_function(target, args)
        node.meta.update(self._origin)
        return node

    def finish(self) -> None:
        """Let what is behind the loops read of them, and let the steps go."""
        for node in [node for node in self.graph.nodes if node not in self._inside]:
            if self._inside.isdisjoint(node.all_input_nodes):
                continue
            self._origin = provenance(node)
            with self.graph.inserting_before(node):
                if node.target in LISTS and isinstance(node.args[0], list | tuple):
                    self._read_list(node)
                else:
                    node.args = fx.map_arg(node.args, self.outer)
                    node.kwargs = fx.map_arg(node.kwargs, self.outer)
        for node in reversed([node for node in self.graph.nodes if node in self._inside]):
            self.graph.erase_node(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()

    def _read_list(self, node: fx.Node) -> None:
        """Of a list of values, the stretches that are the steps of one loop come out of it as one."""
        listed, *dims = arguments(node)
        items: list[fx.Node] = list(listed)
        stack = node.target == aten.stack.default
        dim = int(dims[0]) % (items[0].meta["val"].dim() + stack) if dims else 0
        pieces = []
        while items:
            length = self._stretch(items)
            if length > 1:
                pieces.append(self._from_front(self._each(Each(tuple(items[:length]))), dim, not stack))
            else:
                one = self.outer(items[0])
                pieces.append(self._call(aten.unsqueeze.default, one, dim) if stack else one)
            del items[:length]
        whole = pieces[0] if len(pieces) == 1 else self._call(aten.cat.default, pieces, dim)
        node.replace_all_uses_with(whole)
        self.graph.erase_node(node)

    def _stretch(self, items: Sequence[fx.Node]) -> int:
        """How many of the first ones are of one loop, step after step."""
        known = [self._stacked.get(item) for item in items]
        length, by = 1, 0
        for before, one in pairwise(known):
            if before is None or one is None or before[0] is not one[0]:
                break
            by = by or one[1] - before[1]
            if abs(by) != 1 or one[1] - before[1] != by:
                break
            length += 1
        return length


def _origin(steps: Steps) -> dict[str, object]:
    """The innermost module that all of a step is in, and the line of its end."""
    last = steps.first
    calls = list((last[-1].meta.get("nn_module_stack") or {}).items())
    while calls and not all((node.meta.get("nn_module_stack") or {}).get(calls[-1][0]) for node in last):
        calls.pop()
    return {"nn_module_stack": dict(calls), "stack_trace": last[-1].meta.get("stack_trace")}


def _last(steps: Steps, place: int) -> fx.Node:
    """What the last step has at a place."""
    node = steps.nodes[-1][place]
    assert node is not None  # it takes a number, or is read
    return node


def _value(steps: Steps, write: Place) -> int:
    """The place of what is written."""
    if not isinstance(write.value, Local):
        raise NotRepeated(f"the steps around {steps.first[0].name} write what is not of the step")
    return write.value.place


def _behind(graph: fx.Graph, node: fx.Node) -> AbstractContextManager[object]:
    """The place behind a node, for several nodes in their order."""
    return graph.inserting_before(node.next)
