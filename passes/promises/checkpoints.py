"""Under a budget a loop keeps its states at every so-many-th step alone, and goes through the steps between once more.

    kept          h_0, h_1, h_2, …, and whatever else the rules read of every step
    checkpoints   h_0, h_k, h_2k, …: relevance, block by block from the last, goes through the k steps from h_bk on
                  again, and back through them

Both loops become loops over blocks, whose body is the loop over the steps of one. With n steps in blocks of √n the
states at the checkpoints and the values of one block are 2√n steps' worth, for one more forward through the loop (Chen
et al., "Training deep nets with sublinear memory cost", 2016, arXiv 1604.06174). The last block may be longer than what
is left of the steps: there it reads the last step again, what comes of that is dropped, and the states stay what they
are, where anybody reads them.

This is a rewrite of both graphs between emission and planning. The rules know nothing of it, and every step is
calculated as it was: relevance is the same, number for number, where a runtime calculates the same steps alike.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import (
    REBUILT,
    Declined,
    Origin,
    Scan,
    Sizes,
    add_placeholder,
    arguments,
    assign,
    assignment,
    call,
    is_tensor,
    module_path,
    outputs,
    provenance,
    result_number,
    scan_of,
    scans,
    share_origin,
    size_readings,
    trace_into,
)
from lrp_compiler.torch_private import bound, expression, hint, known_size, take_name

from .blocks_of_steps import Body, block_numbers, handing_out, in_one, in_one_backwards, turned_round, while_within
from .ledger import At, nbytes
from .resolve import rebuilt_inside

aten = torch.ops.aten
BLOCK = 32
"""Steps of a block where nothing bounds how many steps there are: least for a thousand."""
FEW = 8
"""A loop that has no more steps than so many is let be."""
CASTS = (aten._to_copy.default, aten.to.dtype)
"""What lies between a value of half precision and the loop that reads it."""
Promises = list[tuple[fx.Node, fx.Node]]
"""(who asked, which forward value)."""


@dataclass
class Checkpointed:
    """The forward graph with loops in blocks.

    Args:
        forward: a copy of the forward graph.
        nodes: node of the original → its copy, of those that are left.
        promises: what is asked of the copy.
        at: symbol of an open length → the steps that are reckoned with: an example may have few.
        besides: bytes that one block takes while relevance is there, of the loop where it is most.
        loops: how many loops are in blocks.
        declined: loops that were let be, and why.
    """

    forward: fx.GraphModule
    nodes: dict[fx.Node, fx.Node]
    promises: Promises
    at: At
    besides: int
    loops: int
    declined: list[Declined]


def checkpoint_loops(forward: fx.GraphModule, relevance: fx.GraphModule, promises: Promises) -> Checkpointed:
    """Keep states alone, and few of them, of every loop whose steps relevance reads.

    Args:
        forward: the assigned forward graph, whose loops hand out the values of their steps; it stays as it is.
        relevance: the relevance graph, simplified; changed in place.
        promises: pairs of (who asked, which forward value).
    """
    copy, nodes = _copied(forward)
    declined = list[Declined]()
    added: Promises = []
    moved: dict[fx.Node, fx.Node | None] = {}
    loops = []
    for node in scans(copy):
        loop = _Loop(node, relevance)
        reason = loop.reason()
        if reason:
            declined.append((node.name, reason))
        else:
            loops.append(loop)
    at = {symbol: steps for loop in loops for symbol, steps in loop.reckoned().items()}
    besides = max((loop.bytes_of_a_block(at) for loop in loops), default=0)
    for loop in loops:
        askers = [asker for asker, value in promises if nodes[value] in loop.again]
        moved |= dict.fromkeys(loop.again)
        read, replaced = loop.put()
        moved |= replaced
        added += [(asker, value) for value in read for asker in askers[:1]]
    left = {node: moved.get(one, one) for node, one in nodes.items()}
    copies = {node: one for node, one in left.items() if one is not None}
    _assign_anew(copies)
    asked = [(asker, copies[value]) for asker, value in promises if value in copies] + added
    relevance.graph.eliminate_dead_code(is_impure_node=lambda one: one.op in ("placeholder", "output"))
    for module in (copy, relevance):
        module.graph.lint()
        module.recompile()
    return Checkpointed(copy, copies, asked, at, besides, len(loops), declined)


def _copied(forward: fx.GraphModule) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    graph, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(forward.graph, nodes))
    for node in graph.find_nodes(op="placeholder"):
        node.target = node.name
    return fx.GraphModule(forward, graph), nodes


def _assign_anew(nodes: Mapping[fx.Node, fx.Node]) -> None:
    """Let assignments name nodes of the copy; values of steps that are no more are left out."""
    for node, copy in nodes.items():
        given = assignment(node)
        if given is not None:
            of_copy: dict[str, object] = {
                name: fx.map_arg(value, nodes.__getitem__)
                for name, value in given.arguments.items()
                if not isinstance(value, fx.Node) or value in nodes
            }
            assign(copy, replace(given, arguments=of_copy))


class _Loop:
    """One loop of the forward graph, and the one that goes back through it.

    Args:
        node: the loop, in the copy.
        relevance: the relevance graph.
    """

    def __init__(self, node: fx.Node, relevance: fx.GraphModule) -> None:
        self.node = node
        self.loop = scan_of(node)
        self.operands: list[Any] = list(node.args)
        self.relevance = relevance
        promised = self._promised()
        own = {user.name for user in node.users if assignment(user) is None}
        self.sizes = Sizes(relevance.graph)
        for name, place in promised.items():
            if name not in own:
                self.sizes.add_dims(place)
        self.back: fx.Node | None = None
        self.again: dict[fx.Node, list[fx.Node]] = {}
        self.elsewhere = ""
        for user in node.users:
            if user.name in own & promised.keys():
                chain = self._read_backwards(promised[user.name])
                back = next(iter(chain[-1].users)) if chain else None
                if back is not None and self.back in (None, back):
                    self.again[user] = chain
                    self.back = back
                else:
                    self.elsewhere = self.elsewhere or user.name

    def _promised(self) -> dict[str, fx.Node]:
        """Forward value → the placeholder that stands for it."""
        places = self.relevance.graph.find_nodes(op="placeholder")
        return {place.meta["promise"]: place for place in places if "promise" in place.meta}

    def _read_backwards(self, place: fx.Node) -> list[fx.Node]:
        """What makes of a value of all steps what one loop reads step by step from the last: casts, then a flip.

        Nothing: something else reads it, too.
        """
        chain = list[fx.Node]()
        while not chain or chain[-1].target in CASTS:
            at = chain[-1] if chain else place
            sizes = size_readings(at)
            users = [user for user in at.users if user not in sizes]
            if len(users) != 1 or any(size.meta["val"] not in self.sizes for size in sizes):
                return []
            chain += users
        flip = chain[-1]
        if not _turns(flip) or len(flip.users) != 1:
            return []
        (reader,) = flip.users
        if not isinstance(reader.target, Scan) or reader.args.count(flip) != 1:
            return []
        return chain if flip in reader.target.parts(reader.args)[1] else []

    @property
    def length(self) -> Any:
        """How many steps there are."""
        return self.operands[self.loop.states].meta["val"].shape[0]

    @property
    def block(self) -> int:
        """How many steps a block has."""
        most = bound(self.length)
        return BLOCK if most is None else math.isqrt(most - 1) + 1

    def reason(self) -> str:
        """Why the loop is let be; "": it is not."""
        if not self.again:
            return f"{self.elsewhere} is read elsewhere, too" if self.elsewhere else "nothing of its steps is kept"
        most = bound(self.length)
        if most is not None and most <= FEW:
            return f"it has {most} steps"
        numbers = [one for one in self.operands if isinstance(one, fx.Node) and not is_tensor(one)]
        unknown = [one.name for one in numbers if one.meta["val"] not in self.sizes]
        return f"{unknown[0]} is a size that relevance has nowhere" if unknown else ""

    def reckoned(self) -> At:
        """The symbol of the length, if it is one → the most there may be, or as many as the blocks are made for."""
        if known_size(self.length) is not None or not expression(self.length).is_Symbol:
            return {}
        return {expression(self.length): bound(self.length) or max(hint(self.length), BLOCK**2)}

    def bytes_of_a_block(self, at: At) -> int:
        """What the values of one block take."""
        steps = max(1, hint(self.length, at))
        return sum(nbytes(one, at) for one in self.again) * min(self.block, steps) // steps

    def put(self) -> tuple[list[fx.Node], dict[fx.Node, fx.Node]]:
        """Put loops over blocks in the place of both.

        Returns:
            What relevance reads of the forward graph for it: the states at the checkpoints, and the loop's operands;
            and by result of the loop what has taken its place.
        """
        self.operands = list(self.node.args)  # what stands in front may be another by now
        points, replaced = self._put_forward()
        read = [one for one in self.operands if isinstance(one, fx.Node) and is_tensor(one)]
        self._put_back(points)
        return [*points, *read], replaced

    # The way there.

    def _put_forward(self) -> tuple[list[fx.Node], dict[fx.Node, fx.Node]]:
        node, loop, graph = self.node, self.loop, self.node.graph
        states, read, same = loop.parts(self.operands)
        first, last = block_numbers(node, read[0], self.block)
        promised = self._promised()
        for user in list(node.users):
            if not user.users and user.name not in promised:
                graph.erase_node(user)
        left = {result_number(user): user for user in node.users if user not in self.again}
        stacked = sorted(number for number in left if number >= loop.states)
        body = Body(loop.body, states, [first], [*read, *same, last])
        before = body.states
        at, within = body.steps(self.block, body.slices[0], body.of(last))
        slices = [body.call(aten.index_select.default, body.of(one), 0, at) for one in read]
        # Without last states nobody reads what comes of steps that there are not.
        read_last = any(number < loop.states for number in left)
        inner, flags = (while_within(loop), [within]) if read_last else (loop, [])
        made = body.call(handing_out(inner, stacked), *before, *slices, *flags, *map(body.of, same))
        ends = [body.call(operator.getitem, made, number) for number in range(loop.states + len(stacked))]
        with graph.inserting_before(node):
            outer = call(graph, body.loop([*ends, *before]), *body.operands, like=node)
        replaced = {}
        for number, user in left.items():
            place = number if number < loop.states else loop.states + stacked.index(number)
            with graph.inserting_before(node):
                value = call(graph, operator.getitem, outer, place, like=user)
            if number >= loop.states:
                value = trace_into(node, in_one, [value, read[0]], like=user)
            value.meta = {**user.meta, "val": value.meta["val"]}
            user.replace_all_uses_with(value)
            replaced[user] = value
        with graph.inserting_before(node):
            points = [
                graph.create_node(
                    "call_function", operator.getitem, (outer, number), name=f"{node.name}_{place.name}_at_checkpoints"
                )
                for number, place in enumerate(loop.placeholders[: loop.states], len(ends))
            ]
        for point in points:
            point.meta = {**provenance(node), "val": outer.meta["val"][result_number(point)]}
        for user in list(node.users):
            graph.erase_node(user)
            if user in replaced:
                take_name(replaced[user], user)
        graph.erase_node(node)
        take_name(outer, node)
        return points, replaced

    # The way back.

    def _place(self, operand: object) -> Any:
        """What the relevance graph has for an operand of the loop."""
        if not isinstance(operand, fx.Node):
            return operand
        graph = self.relevance.graph
        if not is_tensor(operand):
            return self._size(operand)
        place = self._promised().get(operand.name)
        if place is None:
            with graph.inserting_before(next(iter(graph.nodes))):
                place = add_placeholder(graph, operand.name)
            place.meta.update({"val": operand.meta["val"], "promise": operand.name})
        return place

    def _size(self, known: fx.Node) -> fx.Node:
        """The same size, read off a placeholder in front of everything else."""
        graph = self.relevance.graph
        with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
            return self.sizes.read(known.meta["val"])

    def _put_back(self, points: Sequence[fx.Node]) -> None:
        back, there = self.back, self.loop
        assert back is not None
        loop, graph = scan_of(back), back.graph
        self._read_sizes_elsewhere()
        states, read, same = loop.parts(arguments(back))
        _, inputs, constants = there.parts([self._place(one) for one in self.operands])
        first, last = block_numbers(back, inputs[0], self.block)
        turned = [trace_into(back, turned_round, [one], like=back) for one in (first, *map(self._place, points))]
        rebuilt = {chain[-1]: (user, chain[:-1]) for user, chain in self.again.items()}
        sources = {one: (one.args[0], True) if _turns(one) else (one, False) for one in read if one not in rebuilt}
        whole = [source for source, _ in sources.values()]
        body = Body(loop.body, states, turned, [*inputs, *whole, *constants, *same, last], like=back)
        at, within = body.steps(self.block, body.slices[0], body.of(last))

        # The steps of the block again: of each value that relevance reads, all of them.
        body.known = Origin("relevance", self.node.name, module_path(self.node), REBUILT)
        once_more = handing_out(there, [result_number(user) for user in self.again])
        slices = [body.call(aten.index_select.default, body.of(one), 0, at) for one in inputs]
        again = rebuilt_inside(once_more, body.known)
        made = body.call(again, *body.slices[1:], *slices, *map(body.of, constants))
        values = {user: body.call(operator.getitem, made, place) for place, user in enumerate(self.again, there.states)}

        # And back through them.
        body.known = None
        backwards = body.call(aten.flip.default, at, [0])
        counted = body.call(aten.sub.Tensor, body.of(last), backwards)
        slices = []
        for one in read:
            if one in rebuilt:
                user, casts = rebuilt[one]
                value = values[user]
                for cast in casts:
                    value = body.call(cast.target, value, *cast.args[1:], **cast.kwargs)
                slices.append(body.call(aten.flip.default, value, [0]))
            else:
                source, is_turned = sources[one]
                steps = backwards if is_turned else counted
                slices.append(body.call(aten.index_select.default, body.of(source), 0, steps))
        within = body.call(aten.flip.default, within, [0])
        made = body.call(while_within(loop, like=back), *body.states, *slices, within, *map(body.of, same))
        ends = [body.call(operator.getitem, made, number) for number in range(len(outputs(loop.body)))]
        ends[loop.states :] = [body.call(aten.flip.default, one, [0]) for one in ends[loop.states :]]
        with graph.inserting_before(back):
            outer = call(graph, body.loop(ends), *body.operands, like=back)
        share_origin(outer, back)
        for user in list(back.users):
            self._hand_on(user, outer, inputs[0])
        graph.erase_node(back)

    def _read_sizes_elsewhere(self) -> None:
        """Sizes that are read off what is no more."""
        promised = self._promised()
        for user, chain in self.again.items():
            for one in (promised[user.name], *chain):
                for size in size_readings(one):
                    size.replace_all_uses_with(self._size(size))

    def _hand_on(self, user: fx.Node, outer: fx.Node, steps: fx.Node) -> None:
        """The result of the loop over blocks in the place of that of the loop over steps."""
        number, graph = result_number(user), user.graph
        with graph.inserting_before(user):
            value = call(graph, operator.getitem, outer, number, like=user)
        share_origin(value, user)
        if number >= scan_of(outer).states:
            value = trace_into(user, in_one_backwards, [value, steps], like=user)
            for flip in filter(_turns, list(user.users)):
                value.meta = {**flip.meta, "val": value.meta["val"]}
                flip.replace_all_uses_with(value)
                graph.erase_node(flip)
            if user.users:
                value = trace_into(user, turned_round, [value], like=user)
        if user.users:
            value.meta = {**user.meta, "val": value.meta["val"]}
            user.replace_all_uses_with(value)
        graph.erase_node(user)


def _turns(node: fx.Node) -> bool:
    """Whether it turns the order of the steps round."""
    return node.target is aten.flip.default and node.args[1] == [0]
