"""Straight-through estimators: the value is a hard decision's, the gradient was meant for what was decided upon.

    z ─ nearest row of a code book ─ q          z + (q − z)  =  q          the identity rule from the sum to z

Relevance passes no decision (an argmax, a comparison), so that q is a constant to the rules; and what the sum hands to
z it takes away again by −z. Written so, the model itself says that q stands for z: the sum is a function of z, whose
relevance stays where it is. The same is recognised in every order of the terms (`q − z + z`, `(z − z) + q`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from lrp_compiler.passes.graph import Assignment, Declined, assign, assignment, is_tensor, same_shape
from lrp_compiler.rules import FUNCTION, summands, traits

TERMS = 4
"""A sum of more values is no straight-through estimator, and is not followed: so the pass stays linear."""


@dataclass(frozen=True)
class Sum:
    """A value as a sum of others.

    Args:
        times: active value → how often it is in the sum; 0 where it was taken away again.
        decided: the values that carry no relevance.
    """

    times: Mapping[fx.Node, float]
    decided: frozenset[fx.Node] = field(default_factory=frozenset)


def mark_straight_through(module: fx.GraphModule) -> list[Declined]:
    """Re-assign every sum in which a value cancels and a decision about it stays; which almost are, and why not."""
    sums: dict[fx.Node, Sum] = {}
    declined: list[Declined] = []
    for node in module.graph.nodes:
        given = assignment(node)
        if given is None:
            continue
        found = _sum(node, given, sums)
        if found is None:
            continue
        sums[node] = found
        cancelled = [value for value, times in found.times.items() if times == 0]
        if not cancelled:
            continue
        if len(found.times) > 1:
            declined.append((node.name, f"{cancelled[0].name} cancels, and other values stay"))
        elif not any(_about(decided, cancelled[0]) for decided in found.decided):
            declined.append((node.name, f"{cancelled[0].name} cancels, and nothing that stays was decided about it"))
        else:
            assign(node, Assignment(FUNCTION, {"self": cancelled[0]}, ("self",)))
            del sums[node]
    return declined


def _sum(node: fx.Node, given: Assignment, sums: Mapping[fx.Node, Sum]) -> Sum | None:
    """The node as a sum of values like it, if it is one."""
    known = traits(node.target)
    if given.target is not node.target:  # taken as one function already
        return None
    factors = {"self": 1.0} if known.copies and given.active == ("self",) else summands(node.target, given.arguments)
    if not factors:
        return None
    times: dict[fx.Node, float] = {}
    decided: set[fx.Node] = set()
    for name, factor in factors.items():
        operand = given.arguments.get(name)  # whole numbers that are added to indices have no entry
        if not isinstance(operand, fx.Node) or not is_tensor(operand):
            continue
        if name not in given.active:
            decided.add(operand)
            continue
        if not same_shape(operand, node):
            return None
        inner = sums.get(operand, Sum({operand: 1.0}))
        decided |= inner.decided
        for value, many in inner.times.items():
            times[value] = times.get(value, 0.0) + factor * many
    return Sum(times, frozenset(decided)) if len(times) + len(decided) <= TERMS else None


def _about(decided: fx.Node, value: fx.Node) -> bool:
    """Whether the decision was made about the value, or about what the value was computed from."""
    origins = {node for node in _ancestry(value) if assignment(node) is not None or node.op == "placeholder"}
    return not origins.isdisjoint(_ancestry(decided))


def _ancestry(node: fx.Node) -> set[fx.Node]:
    queue, seen = [node], {node}
    while queue:
        fresh = [operand for operand in queue.pop().all_input_nodes if operand not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return seen
