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

from collections.abc import Collection

from torch import fx

from lrp_compiler.passes.graph import Assignment, assignment
from lrp_compiler.rules import GATE, NONNEGATIVE, OPERATORS, READOUT, find
from lrp_compiler.torch_private import statically_known_true

CARRY = {"selection", "addition", "shift", "scale"}
"""Kinds of operations behind which a gated signal still is one."""
REACH = 32
"""Nodes looked at to see whether one factor was computed from the other, so that the pass stays linear."""


GATING = "gate"
"""Kind of an elementwise product in which one operand gates the other."""


def find_gates(module: fx.GraphModule) -> None:
    """Write down `GATE`: of each product of two activations the one that gates the other, if one does.

    Args:
        module: the forward graph, active nodes annotated, `NONNEGATIVE` known.
    """
    gated: set[fx.Node] = set()
    for node in module.graph.nodes:
        given = assignment(node)
        if given is None:
            continue
        kinds = {entry.kind for entry in OPERATORS.get(given.target, ())}
        if kinds & {GATING, READOUT} and len(given.active) == 2:
            gate = _reader(given, gated) if READOUT in kinds else _gate(given) or _reader(given, gated)
            if gate is not None:
                given.know(GATE, gate)
                if GATING in kinds:
                    gated.add(node)
        elif any(given.arguments[name] in gated for name in given.active):
            operator = find(given.op(node))
            if operator is not None and operator.kind in CARRY:
                gated.add(node)


def _gate(given: Assignment) -> str | None:
    for name, other in (given.active, given.active[::-1]):
        if _is_computed_from(given.arguments[name], given.arguments[other]):
            return name
    made = [name for name in given.active if _is_activation(given.arguments[name])]
    if len(made) > 1:
        made = [name for name in made if name in given.facts[NONNEGATIVE]]
    return made[0] if len(made) == 1 else None


def _reader(given: Assignment, gated: Collection[fx.Node]) -> str | None:
    """The operand that has passed no gate, if the other one has."""
    fresh = [name for name in given.active if given.arguments[name] not in gated]
    return fresh[0] if len(fresh) == 1 else None


def _is_computed_from(node: fx.Node, source: fx.Node) -> bool:
    """Whether relevance of `node` can reach `source`, its shape aside, as far as one cares to look."""
    source = _reshaped(source)
    queue, seen = [node], {node}
    while queue and len(seen) <= REACH:
        given = assignment(queue.pop(0))
        for operand in [given.arguments[name] for name in given.active] if given else []:
            if operand is source:
                return True
            if operand not in seen:
                seen.add(operand)
                queue.append(operand)
    return False


def _reshaped(node: fx.Node) -> fx.Node:
    """What the value was before its shape was changed and nothing else."""
    given = assignment(node)
    while given is not None and len(given.active) == 1:
        operand = given.arguments[given.active[0]]
        kinds = {entry.kind for entry in OPERATORS.get(given.target, ())}
        if "selection" not in kinds or not _are_as_many(node, operand):
            break
        node, given = operand, assignment(operand)
    return node


def _are_as_many(node: fx.Node, operand: fx.Node) -> bool:
    return bool(statically_known_true(node.meta["val"].numel() == operand.meta["val"].numel()))


def _is_activation(node: fx.Node) -> bool:
    given = assignment(node)
    while given is not None and len(given.active) == 1:
        kinds = {entry.kind for entry in OPERATORS.get(given.target, ())}
        if kinds & {"activation", "quantisation"}:
            return True
        if "selection" not in kinds:
            return False
        given = assignment(given.arguments[given.active[0]])
    return False
