"""Loops over blocks of steps: the body of one, in which a loop goes through the steps of a block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import (
    Origin,
    Scan,
    add_placeholder,
    call,
    copied,
    is_tensor,
    outputs,
    set_origin,
    share_origin,
    trace_into,
)
from lrp_compiler.torch_private import fake_mode_of

aten = torch.ops.aten


class Body:
    """The body of a loop over blocks, being built; and the operands of that loop.

    Args:
        module: whose constants it may read.
        states, slices, same: operands of the loop.
        like: the node of the relevance graph for whose sake it is built.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        states: Iterable[object],
        slices: Iterable[object],
        same: Iterable[object],
        like: fx.Node | None = None,
    ) -> None:
        self.module = module
        self.graph = fx.Graph()
        self.like = like
        self.known: Origin | None = None
        self.constants: dict[object, fx.Node] = {}
        self.operands = [*states, *slices, *dict.fromkeys(same)]
        self.mode = fake_mode_of(*(one.meta["val"] for one in self.operands if is_tensor(one)))
        self.states = [self._placeholder(one) for one in states]
        self.slices = [self._placeholder(one, by_block=True) for one in slices]
        for one in dict.fromkeys(same):
            self.constants[one] = self._placeholder(one)
            self.constants[one].meta["constant"] = True

    def _placeholder(self, operand: object, by_block: bool = False) -> fx.Node:
        place = add_placeholder(self.graph, operand.name if isinstance(operand, fx.Node) else "number")
        value: Any = operand.meta["val"] if isinstance(operand, fx.Node) else operand
        place.meta.update({"val": value.select(0, 0) if by_block else value, "input": place.name})
        return place

    def of(self, operand: object) -> fx.Node:
        """What an operand that stays the same is inside."""
        return self.constants[operand]

    def call(self, target: object, *args: object, **kwargs: object) -> fx.Node:
        """One operation more."""
        with self.mode:
            node = call(self.graph, target, *args, like=self.like, **kwargs)
        if self.known is not None:
            set_origin(node, self.known)
        elif self.like is not None:
            share_origin(node, self.like)
        return node

    def steps(self, block: int, first: fx.Node, last: fx.Node) -> tuple[fx.Node, fx.Node]:
        """Numbers of the steps of a block, the last one in place of those behind it; and which of them there are."""
        numbers = self.call(aten.arange.default, block, device=first.meta["val"].device)
        numbers = self.call(aten.add.Tensor, numbers, first)
        return self.call(aten.minimum.default, numbers, last), self.call(aten.le.Tensor, numbers, last)

    def loop(self, results: Sequence[fx.Node]) -> Scan:
        """The loop of it."""
        self.graph.output(tuple(results))
        return Scan(fx.GraphModule(self.module, self.graph), len(self.states), len(self.slices))


def while_within(loop: Scan, like: fx.Node | None = None) -> Scan:
    """The loop with one operand more to read: flags of the steps that there are. In others the states stay."""
    body = copied(loop.body)
    graph = body.graph
    places = graph.find_nodes(op="placeholder")
    states, steps, _ = loop.parts(places)
    mode = fake_mode_of(*(place.meta["val"] for place in places))
    with graph.inserting_after(steps[-1]):
        flag = add_placeholder(graph, "is_a_step")
    with mode:
        flag.meta.update({"val": steps[-1].meta["val"].new_empty([], dtype=torch.bool), "input": flag.name})
    results = outputs(body)
    with graph.inserting_before(graph.output_node()):
        for number, (before, behind) in enumerate(zip(states, results, strict=False)):
            results[number] = call(graph, aten.where.self, flag, behind, before, like=like)
            if like is not None:
                share_origin(results[number], like)
    graph.output_node().args = (tuple(results),)
    body.recompile()
    return Scan(body, loop.states, loop.slices + 1)


def handing_out(loop: Scan, numbers: Sequence[int]) -> Scan:
    """The loop with these of its results alone, besides the last states."""
    body = copied(loop.body)
    results = outputs(body)
    body.graph.output_node().args = ((*results[: loop.states], *(results[number] for number in numbers)),)
    body.graph.eliminate_dead_code(is_impure_node=lambda one: one.op in ("placeholder", "output"))
    body.recompile()
    return loop.with_body(body)


def block_numbers(place: fx.Node, steps: fx.Node, block: int) -> tuple[fx.Node, fx.Node]:
    """The numbers of the blocks' first steps, `[blocks]`, and of the last step."""

    def first(read: Tensor) -> Tensor:
        numbers: Tensor = aten.slice.Tensor(torch.arange(read.shape[0], device=read.device), 0, 0, _END, block)
        return numbers

    def last(read: Tensor) -> Tensor:
        return torch.arange(read.shape[0], device=read.device).select(0, -1)

    return trace_into(place, first, [steps], like=place), trace_into(place, last, [steps], like=place)


_END = 2**63 - 1


def turned_round(steps: Tensor) -> Tensor:
    """The last step, or block, first."""
    return steps.flip(0)


def in_one(blocks: Tensor, steps: Tensor) -> Tensor:
    """`[blocks, block, …]` → `[steps, …]`, of as many as were read: of a slice torch would guess how long it is."""
    together = blocks.reshape([blocks.shape[0] * blocks.shape[1], *blocks.shape[2:]])
    return together.index_select(0, torch.arange(steps.shape[0], device=steps.device))


def in_one_backwards(blocks: Tensor, steps: Tensor) -> Tensor:
    """The same of blocks that come from the last to the first."""
    return in_one(blocks.flip(0), steps)
