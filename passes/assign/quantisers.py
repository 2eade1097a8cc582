"""Quantisation written out in primitives: whole steps of a size, and back again.

    x ─ div s ─ round ─ add z ─ clamp ─ cast ─ cast ─ sub z ─ mul s          one function of x, from end to x
          └ (amax x − amin x) / 255                                          held constant

What is rounded was measured in steps. Where their size, the zero point and the bounds are calculated from the extremes
of what is quantised (dynamic quantisation), they are statistics, as those of a normalisation are: the rule of a product
would send half of the relevance into two elements. A zero point that is added and taken away again is not there: the
rule of a sum would hand it a share. So the way from the rounding to where that is done is one function of x.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.fx.node import Argument

from lrp_compiler.passes.graph import Assignment, Declined, assign, assignment, is_tensor, same_shape
from lrp_compiler.rules import QUANTISED, STEP, bind, by_element, of_family, summands, traits

aten = torch.ops.aten

REACH = 64
"""Nodes looked at between a step's size and the extremes that it is calculated from."""
LENGTH = 16
"""Nodes that follow a rounding, of one quantisation."""
Added = tuple[tuple[object, float], ...]
"""What has been added to the whole numbers, and how often."""


def steps(module: fx.GraphModule) -> set[fx.Node]:
    """The sizes of steps, the zero points and the bounds that are calculated from extremes, and what lies between."""
    found: set[fx.Node] = set()
    for rounding in _roundings(module):
        for node in (_rounded(rounding), *_following(rounding)):
            powers = traits(node.target).powers
            others = [other for other in node.all_input_nodes if is_tensor(other)] if _measures(node) else []
            # Either factor of a product may be the size.
            for other in others if powers and min(powers.values()) > 0 else others[1:]:
                found |= _calculated_from_extremes(other)
    return found


def mark_quantisers(module: fx.GraphModule) -> list[Declined]:
    """Re-assign the end of every quantisation: its rule sees what was measured as its only operand.

    Returns:
        Roundings that are none, and why.
    """
    declined: list[Declined] = []
    for rounding in _roundings(module):
        if assignment(rounding) is None:
            continue
        root = _root(rounding)
        ends = list(_ends(rounding))
        if not ends:
            declined.append((rounding.name, "what is rounded is neither scaled, bounded nor shifted behind it"))
        for end in ends:
            if not same_shape(root, end):
                declined.append((end.name, f"it has another shape than {root.name}, which was measured"))
            else:
                scales = _scales(_rounded(rounding), root, "times", "over") | _scales(end, None, "back", "back_over")
                assign(end, Assignment(QUANTISED, {"self": root, **scales}, ("self",)))
                if not traits(end.target).powers:
                    _tell_step(end, _step(_rounded(rounding), root))
    return declined


def _scales(node: fx.Node, root: fx.Node | None, times: str, over: str) -> dict[str, object]:
    """By what a product or quotient scales its active operand; nothing of any other node, or of the root itself."""
    found = None if node is root else _scaled(node)
    if found is None:
        return {}
    _, other, power = found
    return {times if power > 0 else over: other}


def _scaled(node: fx.Node) -> tuple[fx.Node, object, int] | None:
    """The active operand that a product or quotient scales, the other one, and its power."""
    given, powers = assignment(node), traits(node.target).powers
    if given is None or given.target is not node.target or [powers.get(name) for name in given.active] != [1]:
        return None
    (other,) = powers.keys() - set(given.active)
    return given.operand(given.active[0]), given.arguments[other], powers[other]


def _step(measured: fx.Node, root: fx.Node) -> float:
    """What one of the whole numbers is worth, where that is a number."""
    found = None if measured is root else _scaled(measured)
    _, other, power = found or (root, 1.0, 1)
    if not isinstance(other, (int, float)) or not other:
        return 1.0
    return float(other) if power < 0 else 1 / other


def _tell_step(end: fx.Node, step: float) -> None:
    """Write it down at the maps of these whole numbers."""
    waiting = [end]
    while waiting:
        for user in waiting.pop().users:
            known, given = traits(user.target), assignment(user)
            if given is not None and of_family(given.target, "linear map"):
                given.know(STEP, step)
            if known.pads or known.casts or known.copies:
                waiting.append(user)


def _roundings(module: fx.GraphModule) -> list[fx.Node]:
    return list(module.graph.find_nodes(op="call_function", target=aten.round.default))


def _measures(node: fx.Node) -> bool:
    known = traits(node.target)
    return _bounds(node) or bool(known.powers or known.sums)


def _bounds(node: fx.Node) -> bool:
    """Whether the node bounds its first operand, by numbers or by its second one."""
    known = traits(node.target)
    return known.clamps or (known.pairs and known.extreme != 0)


def _uncast(node: Argument) -> Argument:
    """The node whose values these are, whatever their dtype and shape."""
    while isinstance(node, fx.Node) and (traits(node.target).casts or traits(node.target).copies):
        node = node.args[0]
    return node


def _rounded(rounding: fx.Node) -> fx.Node:
    """What is rounded, whatever casts stand in between."""
    node = _uncast(rounding.args[0])
    assert isinstance(node, fx.Node)
    return node


def _following(rounding: fx.Node) -> Iterator[fx.Node]:
    """What is done to the whole numbers, element by element, until they are scaled."""
    waiting = [rounding]
    for _ in range(LENGTH):
        if not waiting:
            return
        node = waiting.pop()
        for user in node.users:
            if _measures(user):
                yield user
            if traits(user.target).casts or (_measures(user) and not traits(user.target).powers):
                waiting.append(user)


def _calculated_from_extremes(node: fx.Node) -> set[fx.Node]:
    """The nodes between it and the extremes, these included; none where anything else goes in."""
    waiting, seen, extremes = [node], {node}, False
    while waiting:
        current = waiting.pop()
        if current.op == "get_attr":
            continue
        if current.op != "call_function" or len(seen) > REACH:
            return set()
        if current.target in (aten.amax.default, aten.amin.default):
            extremes = True
            continue
        if not (_is_elementwise(current) or _is_made(current)):
            return set()
        fresh = [operand for operand in current.all_input_nodes if is_tensor(operand) and operand not in seen]
        seen.update(fresh)
        waiting += fresh
    return {one for one in seen if one.op == "call_function"} if extremes else set()


def _is_elementwise(node: fx.Node) -> bool:
    known = traits(node.target)
    shaped = node.target in (aten.reshape.default, aten.view.default, aten.unsqueeze.default, aten.squeeze.dims)
    return by_element(node.target) or known.casts or known.copies or known.arithmetic or shaped


def _is_made(node: fx.Node) -> bool:
    """Whether it is a constant."""
    return not any(is_tensor(operand) for operand in node.all_input_nodes)


def _root(rounding: fx.Node) -> fx.Node:
    """What was measured: what was divided by the size of a step, if it was."""
    measured = _rounded(rounding)
    found = _scaled(measured)
    return found[0] if found is not None and same_shape(found[0], measured) else measured


def _ends(rounding: fx.Node) -> Iterator[fx.Node]:
    """Where nothing is added any more, as far behind the rounding as there is such a place, on every way."""
    waiting: list[tuple[fx.Node, Added, fx.Node]] = [(rounding, (), rounding)]
    for _ in range(LENGTH):
        if not waiting:
            return
        node, added, end = waiting.pop()
        end = end if added else node
        further = [(user, after) for user in node.users if (after := _added(user, node, added)) is not None]
        for user, after in further:
            if not traits(user.target).powers:
                waiting.append((user, after, end))
            elif not added:
                yield user
        if len(further) < len(node.users) and end is not rounding:
            yield end


def _added(user: fx.Node, node: fx.Node, added: Added) -> Added | None:
    """What has been added to the rounded numbers behind this node, too; None where another kind of thing is done."""
    given = assignment(user)
    if given is None or len(given.active) != 1 or not same_shape(node, user):
        return None
    known = traits(user.target)
    if known.casts or (_bounds(user) and user.args[0] is node) or known.powers:
        return added
    taken = bind(user.target, user.args, user.kwargs)
    signs = {taken[name]: number for name, number in summands(user.target, taken).items()}
    if signs.pop(node, 0) != 1 or len(signs) != 1:
        return None
    ((taken_up, sign),) = signs.items()
    other = _uncast(taken_up)
    return tuple(one for one in added if one != (other, -sign)) if (other, -sign) in added else (*added, (other, sign))
