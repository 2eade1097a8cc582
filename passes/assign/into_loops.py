"""What a loop reads step by step is worked out in the step, from less.

    scan(h, exp(A·dt) [time, channels, states])      →      scan(h, dt [time, channels], A): h · exp(A·dt_t) + …

A product that is broadcast is larger than its factors, and where it stands in front of a loop all of it is there at
once, for every step. Elementwise operations and changes of shape whose value nobody reads but the loop, step by step,
move into its body: as many of them as make what is read of all steps least in bytes. Relevance then goes through them
step by step, too, by the rules and with the facts that they have: this runs behind the analyses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx

from lrp_compiler.passes.forward import Grid, operands_of, sized
from lrp_compiler.passes.graph import (
    Assignment,
    Declined,
    Result,
    Scan,
    add_placeholder,
    assign,
    assignment,
    call,
    everywhere,
    is_asked_for,
    is_tensor,
    least_cut,
    same_shape,
    scan_of,
    scans,
)
from lrp_compiler.rules import FUNCTION, bind, by_element, traits
from lrp_compiler.torch_private import hint, statically_known_true

from .loops import assigned_anew

aten = torch.ops.aten


class Read(NamedTuple):
    """What an operation reads.

    Args:
        node: a value.
        dim: of its dims (from the last: −1) the one along which steps lie, or would; None: it has none.
        by_step: whether it has another part for each step.
    """

    node: fx.Node
    dim: int | None = None
    by_step: bool = False


MOVES = (
    aten.expand.default,
    aten.full.default,
    aten.permute.default,
    aten.reshape.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.transpose.int,
    aten.unsqueeze.default,
)
"""Changes of shape that a step can do on its part; elementwise operations and casts besides."""


def move_into_loops(forward: fx.GraphModule, apart: Collection[str] = ()) -> Result:
    """Move what pays into the loops of a graph, those in their bodies, too; in place.

    Args:
        forward: the forward graph, analysed.
        apart: patterns of values that have to stay in the graph, as `called` takes them.
    """
    changed, declined = False, list[Declined]()
    for module in everywhere(forward):
        for node in scans(module):
            region = _Region.of(node, apart)
            if region is None:
                continue
            left = [operand for operand in scan_of(node).parts(node.args)[1] if operand not in region.inside]
            if left or any(read.by_step for read in region.read):
                _Moved(region).put()
                changed = True
            else:
                declined.append((node.name, "nothing would be left to be read step by step"))
        module.recompile()
    return Result(forward, changed, declined)


class _Region:
    """What is worked out in front of a loop, for its steps alone.

    Args:
        node: the loop.
        reads: each operation that moves, as an end reads it → what it reads itself; as they stand in the graph.
    """

    def __init__(self, node: fx.Node, reads: Mapping[Read, list[Read]]) -> None:
        self.node, self.reads = node, reads
        self.inside = {read.node for read in reads}

    @classmethod
    def of(cls, node: fx.Node, apart: Collection[str]) -> _Region | None:
        """None: nothing moves."""
        staying: set[fx.Node] = set()
        ends = _ends(node)
        while True:
            reads = dict(_movable(node, apart, staying))
            sliced = {one: [read for read in of if read.by_step] for one, of in reads.items()}
            cut = least_cut(sliced, ends, _bytes)
            found: set[Read] = set()
            waiting = [end for end in ends if end not in cut]
            while waiting:
                one = waiting.pop()
                if one not in found:
                    found.add(one)
                    waiting += [read for read in sliced[one] if read not in cut]
            inside = {read.node for read in found}
            torn = [one for one in inside if not {*inside, node}.issuperset(one.users)]
            if not torn:
                break
            staying.update(torn)
        order = {one: number for number, one in enumerate(node.graph.nodes)}
        kept = sorted(found, key=lambda read: order[read.node])
        return cls(node, {read: reads[read] for read in kept}) if kept else None

    @property
    def read(self) -> list[Read]:
        """What the operations read that stays in front, step by step or the same in all steps."""
        return list(dict.fromkeys(read for of in self.reads.values() for read in of if read.node not in self.inside))


def _ends(node: fx.Node) -> list[Read]:
    """What a loop reads step by step: time comes first."""
    steps = scan_of(node).parts(node.args)[1]
    return list(dict.fromkeys(_end(one) for one in steps))


def _end(operand: Any) -> Read:
    return Read(operand, -operand.meta["val"].dim(), by_step=True)


def _movable(node: fx.Node, apart: Collection[str], staying: Collection[fx.Node]) -> Iterator[tuple[Read, list[Read]]]:
    """The operations that could move into a loop, the last first, and what each reads."""
    states, _, same = scan_of(node).parts(node.args)
    asked: dict[fx.Node, set[Read]] = {}
    for end in _ends(node):
        asked.setdefault(end.node, set()).add(end)
    found: set[fx.Node] = {node}
    for one in reversed(node.graph.nodes):
        if len(asked.get(one, ())) != 1 or one in (*states, *same, *staying) or not found.issuperset(one.users):
            continue
        (read,) = asked[one]
        reads = _reads(read) if read.by_step and not is_asked_for(one, apart) else None
        if reads is None:
            continue
        found.add(one)
        yield read, reads
        for further in reads:
            asked.setdefault(further.node, set()).add(further)


def _reads(read: Read) -> list[Read] | None:
    """What an operation reads of each step; None: it is none that a step can do on its part."""
    node, dim = read.node, read.dim
    if node.op != "call_function" or not is_tensor(node) or dim is None:
        return None
    if not (by_element(node.target) or traits(node.target).casts or node.target in MOVES):
        return None
    root = _root(node)
    found = operands_of(node, Grid(rows=dim))
    if found is None or (root is not None and not same_shape(root, node)):
        return None
    if statically_known_true(node.meta["val"].shape[dim] == 1):
        return None
    tensors = [_read(one, dim, grid.rows) for one, grid in found]
    if root not in (None, node):
        tensors.append(Read(root, dim, by_step=True))
    numbers = [Read(one) for one in node.all_input_nodes if not is_tensor(one)]
    if any(not isinstance(one.node.meta.get("val"), int | torch.SymInt) for one in numbers):
        return None
    return list(dict.fromkeys([*tensors, *numbers]))


def _root(node: fx.Node) -> fx.Node | None:
    """The operand of the rule, where a region of operations is one; the node itself where relevance passes none."""
    given = assignment(node)
    if given is None or given.target is node.target:
        return node
    return given.operand("self") if given.target == FUNCTION else None


def _read(node: fx.Node, dim: int, found: int | None) -> Read:
    """What is read of an operand, whose dim for the steps is `found`; else it may have a dim of size 1 there."""
    if found is not None:
        return Read(node, found, by_step=True)
    return Read(node, dim if node.meta["val"].dim() >= -dim else None)


def _bytes(read: Read) -> int:
    """What one step reads."""
    value = read.node.meta["val"]
    sizes = [hint(size) for size in value.shape]
    assert read.dim is not None
    sizes[read.dim] = 1
    return int(prod(sizes) * value.element_size())


class _Moved:
    """Puts a region into the body of its loop.

    Args:
        region: what moves.
    """

    def __init__(self, region: _Region) -> None:
        self.node, self.region = region.node, region
        self.loop = scan_of(region.node)
        self.graph = self.loop.body.graph
        self.copies: dict[Read, fx.Node] = {}

    def put(self) -> None:
        """In place: the loop, its body, and what says how relevance passes its results."""
        node, loop, inside = self.node, self.loop, self.region.inside
        states, steps, same = loop.parts(node.args)
        places = loop.placeholders
        sliced = [read for read in self.region.read if read.by_step]
        constant = [read for read in self.region.read if not read.by_step]
        carrying = self._carrying()
        with node.graph.inserting_before(node):
            operands = {read: self._in_front(read, read in carrying) for read in (*sliced, *constant)}
        at = places[loop.states + loop.slices - 1]
        for read in sliced:
            at = self._place(at, read, operands[read].meta["val"].select(0, 0))
        at = places[-1] if same else at
        for read in constant:
            at = self._place(at, read, operands[read].meta["val"])
            at.meta["constant"] = True
        carried = {read: str(self.copies[read].meta["input"]) for read in carrying}
        with self.graph.inserting_before(at.next):
            for read in self.region.reads:
                self.copies[read] = self._copy(read)
        gone = [place for place, operand in zip(loop.parts(places)[1], steps, strict=True) if operand in inside]
        for place in gone:
            self._replace(place, self.copies[_end(node.args[places.index(place)])])
        loop.body.recompile()
        left = [operand for operand in steps if operand not in inside]
        new_steps = [*left, *(operands[read] for read in sliced)]
        node.target = Scan(loop.body, loop.states, len(new_steps))
        node.args = (*states, *new_steps, *same, *(operands[read] for read in constant))
        active, wanted = ([carried[read] for read in carrying if carrying[read] is kind] for kind in (True, False))
        names = {str(place.meta["input"]) for place in gone}
        for user in node.users:
            given = assignment(user)
            if given is not None:
                assign(user, assigned_anew(user, given, names, active, wanted))
        for read in reversed(list(self.region.reads)):
            node.graph.erase_node(read.node)

    def _carrying(self) -> dict[Read, bool]:
        """What is read that relevance flows to, or (False) whose own is asked for, and that stays in front."""
        found: dict[Read, bool] = {}
        for one, reads in self.region.reads.items():
            given = assignment(one.node)
            for name in () if given is None else (*given.wanted, *given.active):
                operand = given.arguments[name]  # type: ignore[union-attr]
                flows = name in given.active  # type: ignore[union-attr]
                found.update(
                    {read: flows for read in reads if read.node is operand and operand not in self.region.inside}
                )
        return found

    def _in_front(self, read: Read, carries: bool) -> fx.Node:
        """The loop's operand for what is read: steps first, or without a dim for them."""
        node, dim = read.node, read.dim
        if dim is None:
            return node
        rank = node.meta["val"].dim()
        if not read.by_step:
            made = call(node.graph, aten.squeeze.dim, node, rank + dim, like=node)
        elif rank + dim == 0:
            return node
        else:
            order = [rank + dim, *(at for at in range(rank) if at != rank + dim)]
            made = call(node.graph, aten.permute.default, node, order, like=node)
        if carries:
            assign(made, Assignment.of(made, ("self",)))
        return made

    def _place(self, behind: fx.Node, read: Read, value: object) -> fx.Node:
        """A placeholder of the body for what is read."""
        with self.graph.inserting_after(behind):
            place = self.copies[read] = add_placeholder(self.graph, read.node.name)
        place.meta.update({"val": value, "input": place.name})
        return place

    def _copy(self, read: Read) -> fx.Node:
        """What a step does of an operation, in the body."""
        node = read.node
        inner = {one.node: self.copies[one] for one in self.region.reads[read]}
        target, args, kwargs = _of_a_step(read, self.region.reads[read])
        if target is aten.permute.default and list(args[1]) == sorted(args[1]):
            unmoved: fx.Node = inner[args[0]]
            return unmoved
        args, kwargs = fx.map_arg((args, kwargs), inner.__getitem__)
        copy = call(self.graph, target, *args, **kwargs)
        copy.meta = {**node.meta, "val": copy.meta["val"]}
        given = assignment(node)
        if given is not None and given.target is node.target:
            assign(copy, replace(given, target=target, arguments=bind(target, copy.args, copy.kwargs)))
        elif given is not None:
            assign(copy, replace(given, arguments={"self": inner[given.operand("self")]}))
        return copy

    def _replace(self, place: fx.Node, value: fx.Node) -> None:
        """A placeholder by what is worked out now, also where rules read it."""
        for inner in self.graph.nodes:
            given = assignment(inner)
            if given is not None and place in given.arguments.values():
                changed = {name: value if one is place else one for name, one in given.arguments.items()}
                assign(inner, replace(given, arguments=changed))
        place.replace_all_uses_with(value)
        self.graph.erase_node(place)


def _of_a_step(read: Read, reads: list[Read]) -> tuple[object, list[Any], dict[str, Any]]:
    """The call that does what an operation does, of values without the dim along which steps lie."""
    node, target = read.node, read.node.target
    rank = node.meta["val"].dim()
    assert read.dim is not None
    at = rank + read.dim
    number = sized(node)
    if number is not None:
        args: list[Any] = list(node.args)
        args[number] = [size for place, size in enumerate(args[number]) if place != at]
        return target, args, dict(node.kwargs)
    if target not in MOVES:
        return target, list(node.args), dict(node.kwargs)
    given = bind(target, node.args, node.kwargs)
    (source,) = reads
    assert source.dim is not None
    sizes = source.node.meta["val"].dim()
    along = sizes + source.dim
    if target in (aten.permute.default, aten.transpose.int):
        order = list(range(rank))
        if target is aten.permute.default:
            order = [dim % rank for dim in given["dims"]]
        else:
            one, other = given["dim0"] % rank, given["dim1"] % rank
            order[one], order[other] = other, one
        return aten.permute.default, [source.node, [dim - (dim > along) for dim in order if dim != along]], {}
    # Of a dim that is put in, the place in the result counts; of one that is taken away or cut, that in the operand.
    of, before = (rank, at) if target is aten.unsqueeze.default else (sizes, along)
    dim = given["dim"] % of
    return target, [*({**given, "dim": dim - (dim > before)}).values()], {}
