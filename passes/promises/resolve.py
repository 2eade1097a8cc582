"""Promises resolved: what the plan rebuilds is spliced into the relevance graph.

    relevance(x, a, b, W): … a … b …     →     relevance(x, a, W): … a …; b' = relu(linear(a', W)) … b' …

where `a' = a + 0`, the 0 being made of the relevance that has arrived by then: no runtime can compute b' earlier, or
take it for the b of the forward graph. Where a chain begins at several values it is the smallest that waits, a bias
mostly. Each forward node is rebuilt at most once, so the graph stays linear.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import (
    REBUILT,
    SEEDED,
    WAIT,
    Origin,
    Scan,
    Sizes,
    add_placeholder,
    attribute,
    call,
    copied,
    copy_node,
    is_tensor,
    keep_tensor,
    module_path,
    set_origin,
    size_readings,
)
from lrp_compiler.torch_private import expression

from .ledger import Ledger, nbytes
from .planner import Decision

aten = torch.ops.aten


def asked_values(
    relevance: fx.GraphModule, ledger: Ledger, promises: list[tuple[fx.Node, fx.Node]]
) -> dict[fx.Node, list[fx.Node]]:
    """Forward value → the nodes that asked for it, for those that the (simplified) relevance graph still reads."""
    by_name = {node.name: node for node in ledger.nodes}
    read = {by_name[node.meta["promise"]] for node in relevance.graph.find_nodes(op="placeholder") if _is_read(node)}
    asked: dict[fx.Node, list[fx.Node]] = {value: [] for value in ledger.nodes if value in read}
    for origin, value in promises:
        if value in asked:
            asked[value].append(origin)
    return asked


def rebuilt_inside(loop: Scan, known: Origin) -> Scan:
    """The loop, of whose steps everything is rebuilt."""
    body = copied(loop.body)
    for node in body.graph.nodes:
        if node.op == "call_function":
            set_origin(node, known)
        if isinstance(node.target, Scan):
            node.target = rebuilt_inside(node.target, known)
    return loop.with_body(body)


def _is_read(placeholder: fx.Node) -> bool:
    """Whether anything but a symbolic size is taken from it."""
    return "promise" in placeholder.meta and len(size_readings(placeholder)) < len(placeholder.users)


def resolve_promises(relevance: fx.GraphModule, ledger: Ledger, decision: Decision) -> fx.GraphModule:
    """The relevance graph with fewer placeholders: those that stand for rebuilt values are computed from the others.

    Args:
        relevance: the relevance graph, simplified.
        ledger: the forward graph as the planner saw it.
        decision: what the planner decided.
    """
    return _Splice(relevance, ledger, decision).run()


class _Splice:
    def __init__(self, relevance: fx.GraphModule, ledger: Ledger, decision: Decision) -> None:
        self.relevance = relevance
        self.ledger = ledger
        self.decision = decision
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.rebuilt: dict[int, fx.Node] = {}
        self.handed: dict[int, fx.Node] = {}
        self.delayed: dict[tuple[int, int], fx.Node] = {}
        self.late: set[fx.Node] = set()  # rebuilt nodes that wait for relevance
        self.sizes = Sizes(self.graph)
        # Sizes that the forward graph calculates (a product of two, say).
        self.calculated = {
            expression(node.meta["val"]): index
            for index, node in reversed(list(enumerate(ledger.nodes)))
            if isinstance(node.meta.get("val"), torch.SymInt)
        }
        self.carries: set[fx.Node] = set()
        self.arrived: fx.Node | None = None

    def run(self) -> fx.GraphModule:
        promised: dict[fx.Node, int] = {}
        by_name = {node.name: index for index, node in enumerate(self.ledger.nodes)}
        placeholders = self.relevance.graph.find_nodes(op="placeholder")
        for node in placeholders:
            if _is_read(node):
                promised[node] = by_name[node.meta["promise"]]
        for index in sorted({*promised.values(), *self._sources()} - self.decision.rebuilt):
            self._hand_over(index)
        for node in placeholders:
            # A size that nothing else has: of a slice that only its shape is asked of.
            read_off = [reading.meta["val"] for reading in size_readings(node)]
            if "promise" in node.meta and node not in promised and not all(map(self._is_known, read_off)):
                promised[node] = by_name[node.meta["promise"]]
                self._hand_over(promised[node])
        for node in placeholders:
            if "promise" not in node.meta:
                self.copies[node] = add_placeholder(self.graph, node.name)
                self.copies[node].meta.update(node.meta)
                self.sizes.add_dims(self.copies[node])
                if SEEDED in node.meta:
                    self.carries.add(node)
        for node in self.relevance.graph.nodes:
            if node.op == "get_attr":
                tensor = attribute(self.relevance, str(node.target))
                self.copies[node] = self.graph.get_attr(keep_tensor(self.root, str(node.target), tensor))
                self.copies[node].meta.update(node.meta)
            elif node.op != "placeholder":
                self._copy(node, promised)
        return fx.GraphModule(self.root, self.graph)

    def _sources(self) -> set[int]:
        values = self.ledger.values
        return {source for index in self.decision.rebuilt for source in values[index].sources}

    def _hand_over(self, index: int) -> None:
        original = self.ledger.nodes[index]
        node = self.handed[index] = add_placeholder(self.graph, original.name)
        node.meta.update(original.meta)
        node.meta["promise"] = original.name
        self.sizes.add_dims(node)

    def _copy(self, node: fx.Node, promised: dict[fx.Node, int]) -> None:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and self._is_known(value):
            self.copies[node] = self._size(value)
            return
        for source in node.all_input_nodes:
            if source in promised and source not in self.copies:
                self.copies[source] = self._value(promised[source])
        new = self.copies[node] = copy_node(self.graph, node, self.copies)
        if SEEDED in node.meta or not self.carries.isdisjoint(node.all_input_nodes):
            self.carries.add(node)
            if is_tensor(new) and new.meta["val"].is_floating_point():
                self.arrived = new

    def _is_known(self, value: object) -> bool:
        return value in self.sizes or (isinstance(value, torch.SymInt) and expression(value) in self.calculated)

    def _size(self, value: torch.SymInt) -> fx.Node:
        """The symbolic size: read off whatever is at hand, or calculated as the forward graph does."""
        if value not in self.sizes:
            self.sizes.add(self._value(self.calculated[expression(value)]))
        return self.sizes.read(value)

    def _value(self, index: int) -> fx.Node:
        """The promised value: handed over, or rebuilt together with what leads to it."""
        if index in self.handed:
            return self.handed[index]
        chain, stack = set(), [index]
        while stack:
            current = stack.pop()
            if current in chain or current in self.rebuilt or current in self.handed:
                continue
            if is_tensor(self.ledger.nodes[current]) and current not in self.decision.rebuilt:
                with self.graph.inserting_before():  # a size is read off it, and nothing else
                    self._hand_over(current)
                continue
            chain.add(current)
            value = self.ledger.nodes[current].meta.get("val")
            if value not in self.sizes:
                stack.extend(self.ledger.values[current].sources)
        for current in sorted(chain):
            self.rebuilt[current] = self._rebuild(current)
        return self.rebuilt[index]

    def _rebuild(self, index: int) -> fx.Node:
        original = self.ledger.nodes[index]
        value = original.meta.get("val")
        if isinstance(value, torch.SymInt) and value in self.sizes:
            return self._size(value)
        sources = self.ledger.values[index].sources
        ready = {source: self.rebuilt[source] if source in self.rebuilt else self.handed[source] for source in sources}
        if self.decision.segment.get(index, 0) and self.late.isdisjoint(ready.values()):
            self._hold_back(index, ready)
        node = self.graph.node_copy(original, lambda source: ready[self.ledger.index[source]])
        if not self.late.isdisjoint(ready.values()):
            self.late.add(node)
        known = Origin("relevance", original.name, module_path(original), REBUILT)
        set_origin(node, known)
        if isinstance(node.target, Scan):
            node.target = rebuilt_inside(node.target, known)
        return node

    def _hold_back(self, index: int, ready: dict[int, fx.Node]) -> None:
        """Make the smallest operand wait for relevance (a bias, mostly): the node cannot be had before that either."""
        size = nbytes(self.ledger.nodes[index]) if is_tensor(self.ledger.nodes[index]) else 0
        small = [(nbytes(node), source) for source, node in ready.items() if _can_wait(node) and nbytes(node) <= size]
        if self.arrived is None or not small:
            return
        source = min(small)[1]
        key = (source, self.decision.segment[index])
        if key not in self.delayed:
            self.delayed[key] = self._plus_zero(ready[source])
            self.late.add(self.delayed[key])
        ready[source] = self.delayed[key]

    def _plus_zero(self, node: fx.Node) -> fx.Node:
        assert self.arrived is not None

        def made(target: object, *args: object, **kwargs: Any) -> fx.Node:
            new = call(self.graph, target, *args, **kwargs)
            set_origin(new, Origin("relevance", node.name, "", WAIT))
            return new

        first = made(aten.slice.Tensor, made(aten.reshape.default, self.arrived, [-1]), 0, 0, 1)
        # x ≠ x is 1 for NaN and 0 else: times 0 that is 0, whatever arrived.
        odd = made(aten._to_copy.default, made(aten.ne.Tensor, first, first), dtype=node.meta["val"].dtype)
        return made(aten.add.Tensor, node, made(aten.mul.Tensor, odd, 0))


def _can_wait(node: fx.Node) -> bool:
    return is_tensor(node) and node.meta["val"].dim() > 0 and node.meta["val"].dtype is not torch.bool
