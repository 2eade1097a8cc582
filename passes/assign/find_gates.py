"""Products in which one factor gates the other.

    silu(W₁ x) · W₂ x          the silu is the gate, W₂ x the signal
    sigmoid(f) · tanh(g)       the one that is never negative gates
    silu(x) · W silu(x)        W silu(x) gates: it was computed from the signal
    Σ (gate · signal) @ C      C gates: it reads what gates have let through (a state that is selected from)

A factor is a gate when it was computed from the other one. Else when an activation function made it, up to a change of
shape, and the other was not made so; of two activations the one that is known to be ≥ 0. Else when only the other one
has passed a gate already: sums of gated signals, the states of selective scans and of gated linear attention, are read
by matrix products, and what reads them gates like what wrote them. Composites say whether a gate takes relevance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import fx

from lrp_compiler.passes.graph import Assignment, Scan, assignment, everywhere, made_across, scan_of, scans
from lrp_compiler.rules import GATE, NONNEGATIVE, OPERATORS, READOUT, find
from lrp_compiler.torch_private import statically_known_true

CARRY = {"selection", "addition", "shift", "scale"}
"""Kinds of operations behind which a gated signal still is one: the decision of this pass, not what these ops are."""
REACH = 32
"""Nodes looked at to see whether one factor was computed from the other, so that the pass stays linear."""


GATING = "gate"
"""Kind of an elementwise product in which one operand gates the other."""


def find_gates(module: fx.GraphModule) -> None:
    """Write down `GATE`: of each product of two activations the one that gates the other, if one does.

    Args:
        module: the forward graph, active nodes annotated, `NONNEGATIVE` known.
    """
    loops: list[Any] = [node.target for graph in everywhere(module) for node in scans(graph)]
    parts = [loop.parts(loop.placeholders) for loop in loops]
    states, constants = ({place for part in parts for place in part[at]} for at in (0, 2))
    _Gates(made_across(module), states, constants).go_through(module)


class _Gates:
    """Goes through a graph, and the steps of its loops as if they were written out.

    Args:
        across: what makes a value on the other side of a loop's edge.
        states: placeholders of bodies for what the step before left.
        constants: those for what is the same in all steps.
    """

    def __init__(
        self, across: Mapping[fx.Node, fx.Node], states: Collection[fx.Node], constants: Collection[fx.Node]
    ) -> None:
        self._across, self._states, self._constants = across, states, constants
        self._gated: set[fx.Node] = set()

    def go_through(self, module: fx.GraphModule) -> None:
        """One graph, and all that is in it."""
        for node in module.graph.nodes:
            if isinstance(node.target, Scan):
                self._go_through_steps(node)
                continue
            given = assignment(node)
            if given is None:
                continue
            kinds = {entry.kind for entry in OPERATORS.get(given.target, ())}
            if kinds & {GATING, READOUT} and len(given.active) == 2:
                gate = self._reader(given) if READOUT in kinds else self._gate(given) or self._reader(given)
                given.know(GATE, gate)
                if gate is not None and GATING in kinds:
                    self._gated.add(node)
            elif self._across.get(node) in self._gated:
                self._gated.add(node)
            elif any(given.arguments[name] in self._gated for name in given.active):
                operator = find(given.op(node))
                if operator is not None and operator.kind in CARRY:
                    self._gated.add(node)

    def _go_through_steps(self, node: fx.Node) -> None:
        """Again, if a step leaves a state gated: the next one begins with that."""
        loop = scan_of(node)
        places = loop.placeholders
        self._gated.update(place for place, operand in zip(places, node.args, strict=True) if operand in self._gated)
        while True:
            self.go_through(loop.body)
            more = {place for place in places[: loop.states] if self._across[place] in self._gated} - self._gated
            if not more:
                return
            self._gated |= more

    def _gate(self, given: Assignment) -> str | None:
        for name, other in (given.active, given.active[::-1]):
            if self._is_computed_from(given.arguments[name], given.arguments[other]):
                return name
        made = [name for name in given.active if self._is_activation(given.arguments[name])]
        if len(made) > 1:
            made = [name for name in made if name in given.facts[NONNEGATIVE]]
        return made[0] if len(made) == 1 else None

    def _reader(self, given: Assignment) -> str | None:
        """The operand that has passed no gate, if the other one has."""
        fresh = [name for name in given.active if given.arguments[name] not in self._gated]
        return fresh[0] if len(fresh) == 1 else None

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        """What relevance of the node goes to."""
        if node in self._across:
            return [self._across[node]]
        given = assignment(node)
        return [given.arguments[name] for name in given.active] if given else []

    def _is_computed_from(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether relevance of `node` can reach `source`, its shape aside, as far as one cares to look."""
        source = self._reshaped(source)
        queue, seen = [(node, False)], {(node, False)}
        while queue and len(seen) <= REACH:
            reached, earlier = queue.pop(0)
            # What is left of the step before was not made of this step's values.
            earlier = earlier or reached in self._states
            for operand in self._operands(reached):
                if operand is source and (not earlier or source in self._constants):
                    return True
                if (operand, earlier) not in seen:
                    seen.add((operand, earlier))
                    queue.append((operand, earlier))
        return False

    def _reshaped(self, node: fx.Node) -> fx.Node:
        """What the value was before its shape was changed and nothing else."""
        while (operand := self._selected_from(node)) is not None and _are_as_many(node, operand):
            node = operand
        return node

    @staticmethod
    def _selected_from(node: fx.Node) -> fx.Node | None:
        """What the node takes elements of, if it does no more."""
        given = assignment(node)
        if given is None or len(given.active) != 1:
            return None
        kinds = {entry.kind for entry in OPERATORS.get(given.target, ())}
        operand: fx.Node = given.arguments[given.active[0]]
        return operand if "selection" in kinds else None

    def _is_activation(self, node: fx.Node) -> bool:
        """Whether an activation function made it, up to a change of shape; of several parts, each of them."""
        waiting, seen = [node], set[fx.Node]()
        while waiting:
            following = waiting.pop()
            if following in seen:
                continue
            seen.add(following)
            given = assignment(following)
            kinds = {entry.kind for entry in OPERATORS.get(given.target, ())} if given is not None else set()
            if given is not None and len(given.active) == 1 and kinds & {"activation", "quantisation"}:
                continue
            operands = self._operands(following) if following in self._across or "selection" in kinds else []
            if not operands:
                return False
            waiting += operands
        return True


def _are_as_many(node: fx.Node, operand: fx.Node) -> bool:
    return bool(statically_known_true(node.meta["val"].numel() == operand.meta["val"].numel()))
