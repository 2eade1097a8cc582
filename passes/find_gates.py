"""Products in which one factor gates the other.

    silu(W₁ x) · W₂ x          the silu is the gate, W₂ x the signal
    sigmoid(f) · tanh(g)       the one that is never negative gates

A factor is a gate when an activation function made it, up to a change of shape, and the other was not made so; of two
activations the one that is known to be ≥ 0. Composites say whether a gate takes relevance.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from lrp_compiler.rules import OPERATORS
from lrp_compiler.rules.product import GATE, two_active

from .assignment import Assignment, assignment


def find_gates(module: fx.GraphModule, nonnegative: Collection[fx.Node]) -> None:
    """Note the gate of each product of two activations, where there is one.

    Args:
        module: the forward graph, active nodes annotated.
        nonnegative: the nodes whose value is ≥ 0 for every input.
    """
    for node in module.graph.nodes:
        given = assignment(node)
        if given is None or not any(entry.kind == GATE for entry in OPERATORS.get(given.target, ())):
            continue
        if two_active(given.op(node)):
            gate = _gate(given, nonnegative)
            if gate is not None:
                given.arguments = {**given.arguments, GATE: gate}


def _gate(given: Assignment, nonnegative: Collection[fx.Node]) -> str | None:
    made = [name for name in given.active if _is_activation(given.arguments[name])]
    if len(made) > 1:
        made = [name for name in made if given.arguments[name] in nonnegative]
    return made[0] if len(made) == 1 else None


def _is_activation(node: fx.Node) -> bool:
    given = assignment(node)
    while given is not None and len(given.active) == 1:
        kinds = {entry.kind for entry in OPERATORS.get(given.target, ())}
        if "activation" in kinds:
            return True
        if "selection" not in kinds:
            return False
        given = assignment(given.arguments[given.active[0]])
    return False
