"""Loops over time, seen from outside: which of their results carry relevance, and from which operands.

    scan(h0, c0, x, W) → (h_last, c_last, h)       h: from x by every step, from h0 by the first one

A state carries relevance where what a step makes of it does, and the other way round, so that is found by going through
the body until nothing is added. Each result that carries some is one operation to whoever walks the graph; how its
relevance goes back through the steps is the body's affair, whose nodes have rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from torch import fx

from lrp_compiler.passes.graph import Assignment, outputs, result_number, scan_of
from lrp_compiler.rules import SCAN

MarkActive = Callable[[fx.Node, Collection[str]], set[fx.Node]]
"""(loop, names of its body's placeholders that carry relevance) → the body's active nodes."""


def active_inside(node: fx.Node, active: Collection[fx.Node], mark: MarkActive) -> tuple[list[str], set[int]]:
    """What carries relevance in a loop.

    Args:
        node: the loop.
        active: the nodes in front of it that carry some.
        mark: goes through the body.

    Returns:
        Names of the body's placeholders, and numbers of the loop's results.
    """
    loop = scan_of(node)
    places = loop.placeholders
    names = [place.meta["input"] for place, operand in zip(places, node.args, strict=True) if operand in active]
    while True:
        inside = mark(node, names)
        results = {number for number, result in enumerate(outputs(loop.body)) if result in inside}
        more = [places[number].meta["input"] for number in sorted(results) if number < loop.states]
        more = [name for name in more if name not in names]
        if not more:
            return names, results
        names += more


CARRIED = "carried."
"""Among the arguments of a loop's result: the body's placeholders that carry relevance. A first state that is a
constant is none of the operands that do; what the steps make of it is."""
RESULT = "result."
"""The same for the number of the result. No placeholder is called so: their names hold no dots."""


def assigned(
    node: fx.Node, names: Collection[str], active: Collection[fx.Node], weights: Collection[fx.Node]
) -> Assignment:
    """How relevance passes one result of a loop.

    Args:
        node: the result.
        names: of the body's placeholders that carry relevance.
        active: the nodes in front of the loop that carry some.
        weights: those whose own relevance is asked for, and what is made of them alone.
    """
    made_by = node.args[0]
    assert isinstance(made_by, fx.Node)
    loop = scan_of(made_by)
    operands = dict(zip((operand_name(place) for place in loop.placeholders), made_by.args, strict=True))
    own = [name for name, operand in operands.items() if name in names and operand in active]
    wanted = tuple(name for name, operand in operands.items() if operand in weights)
    return Assignment(SCAN, {**operands, CARRIED: list(names), RESULT: result_number(node)}, tuple(own), wanted)


def assigned_anew(
    node: fx.Node, given: Assignment, gone: Collection[str], active: Sequence[str], wanted: Sequence[str]
) -> Assignment:
    """The same of a loop that has got other operands.

    Args:
        node: a result of it.
        given: how relevance passed that before.
        gone: names of the body's placeholders that are none any more.
        active: of the new ones those that carry relevance.
        wanted: those whose own relevance is asked for, and what is made of them alone.
    """
    made_by = node.args[0]
    assert isinstance(made_by, fx.Node)
    places = scan_of(made_by).placeholders
    operands = dict(zip(map(operand_name, places), made_by.args, strict=True))

    def left(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in gone)

    carried = [*left(given.arguments[CARRIED]), *active]
    return replace(
        given,
        arguments={**operands, CARRIED: carried, RESULT: given.arguments[RESULT]},
        active=(*left(given.active), *active),
        wanted=(*left(given.wanted), *wanted),
    )


def operand_name(place: fx.Node) -> str:
    """What the operand goes by that a placeholder of the body stands for."""
    return str(place.meta["input"])
