"""Regions in which a value decides about itself, place by place: one function of it, where differences are explained.

    y ─ gt 0 ────┐
    y ───────────┼ where         one function f(y) (a PReLU): its slope between both ends is Δf/Δy, and nothing is
    y ─ mul 0.2 ─┘               left to the decision

By itself the choice is an affine map whose mask may differ at the reference, and what that is worth is absorbed as
"decision" (`rules/differences.py`). A region ends where such a mask, or whatever else of y carries no relevance, meets
what does; it begins at the nearest value that all of it came through. Everything in between is made element by element.

    y ─ log ─ clamp          y ─ masked_fill −∞ ─ exp

What a view makes of a decision is the decision of what the same view makes of the value, so a mask may pass one first:

    y ─ gt 0 ─ view ─┐
    y ─ view ────────┼ where

A value that may be infinite at one end differs by no number. What is made of it alone, element by element, is one
function of what it was made of: finite at both ends, its slope is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import (
    TWIN,
    Assignment,
    Declined,
    Dominators,
    assign,
    assignment,
    constant_of,
    is_tensor,
    same_shape,
)
from lrp_compiler.rules import FUNCTION, Call, bind, by_element, traits

MASKED = -1e4
"""What models write where a score shall not count is this at most, or infinite; a slope towards it is no function's."""
FILLS = (torch.ops.aten.full.default, torch.ops.aten.scalar_tensor.default)
"""What makes constants of a number."""


def fuse_decided(module: fx.GraphModule) -> list[Declined]:
    """Re-assign the end of every region: its rule sees the root as its only operand; which are none, and why."""
    tree = Dominators()
    declined: list[Declined] = []
    filling: set[fx.Node] = set()
    infinite: dict[fx.Node, fx.Node] = {}
    places = {node: place for place, node in enumerate(module.graph.nodes)}
    for node in places:
        varying = [source for source in node.all_input_nodes if TWIN in source.meta]
        if _is_view(node):
            _place(node, tree)
            if not filling.isdisjoint(varying):
                filling.add(node)
            continue
        if not varying or not _is_elementwise(node, varying):
            tree.starts(node)
            continue
        if any(source in filling for source in varying) or any(map(_masks, _constants(module, node))):
            filling.add(node)
        root, given = tree.follows(node, varying), assignment(node)
        if root is not None and places[root] > places[node]:  # a view that is made for others
            root = None
        carrying = [given.operand(name) for name in given.active] if given else []
        behind = infinite.get(varying[0]) if len(varying) == 1 else None
        if behind is not None:
            infinite[node] = behind
            if carrying:
                assign(node, Assignment(FUNCTION, {"self": behind}, ("self",)))
            continue
        root = infinite.get(root, root) if root is not None else None
        if root is None or not carrying or not root.meta["val"].is_floating_point():
            continue
        decides = not set(varying) <= set(carrying)
        if (decides and node in filling) or (len(varying) == 1 and _has_poles(node)):
            infinite[node] = root
        if decides and node in filling:
            declined.append((node.name, f"what is chosen instead of a value of {root.name} is a mask's value"))
        elif decides:
            assign(node, Assignment(FUNCTION, {"self": root}, ("self",)))
    return declined


def _is_view(node: fx.Node) -> bool:
    """Whether it only moves elements of what varies, wherever these come from."""
    known = traits(node.target)
    moves = node.op == "call_function" and known.free and not (known.casts or known.copies) and is_tensor(node)
    return moves and TWIN in _moved(node).meta


def _moved(view: fx.Node) -> fx.Node:
    return view.all_input_nodes[0]


def _place(view: fx.Node, tree: Dominators) -> None:
    """Put a view into the tree: behind the same view of the nearest value that what it moves is made of, if there is
    one, from which it follows element by element, too."""
    if view in tree:
        return
    before = tree.above(_moved(view))
    same = (user for value in before for user in value.users if _is_view(user) and _alike(user, view))
    found = next(same, None)
    if found is None:
        tree.starts(view)
        return
    _place(found, tree)
    tree.follows(view, [found])


def _alike(one: fx.Node, other: fx.Node) -> bool:
    """Whether two views move alike, whatever they move."""

    def others(view: fx.Node) -> object:
        return fx.map_arg((view.args[1:], view.kwargs), lambda node: node)

    return one.target == other.target and others(one) == others(other)


def _masks(value: float) -> bool:
    return value <= MASKED or value == math.inf


def _has_poles(node: fx.Node) -> bool:
    """Whether the value may be infinite where what it is made of is not; by overflow alone, or NaN, is none."""
    known = traits(node.target)
    if known.undefined is None or known.logarithms < 0 or (known.roots and not known.inverts):
        return False
    floats = [source for source in node.all_input_nodes if is_tensor(source) and source.meta["val"].is_floating_point()]
    return known.undefined(Call(bind(node.target, node.args, node.kwargs), floats, lambda handle: False))


def _is_elementwise(node: fx.Node, varying: list[fx.Node]) -> bool:
    if node.op != "call_function" or not all(is_tensor(each) for each in (node, *varying)):
        return False
    if not all(same_shape(source, node) for source in varying):
        return False
    return by_element(node.target) or bool(traits(node.target).casts)


def _constants(module: fx.GraphModule, node: fx.Node) -> Iterator[float]:
    """The numbers that a call reads: its own, and of constants of one element or filled with one."""
    for source in (node, *node.all_input_nodes):
        value = constant_of(module, source)
        if isinstance(value, Tensor):
            if value.numel() == 1 and not value.is_complex():
                yield float(value)
        elif source.op == "call_function" and (source is node or source.target in FILLS):
            yield from (float(number) for number in source.args if isinstance(number, int | float))
