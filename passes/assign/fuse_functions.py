"""Elementwise regions that are one function of one activation.

    mul(x, 0.5) ───────────────┐
    x → … → tanh → add 1 ──────┴ mul         one function f(x) (a GELU written out): identity rule from end to root

A node at which several paths from one activation meet again, all of them elementwise, ends such a region. Its root is
where the paths parted: the nearest common dominator. Regions that are linear (x + x) are left to the rules of sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from lrp_compiler.passes.graph import Assignment, Declined, Dominators, assign, assignment, attribute, same_shape
from lrp_compiler.rules import FUNCTION, SLOPE, Facts, of_family, traits


def fuse_functions(module: fx.GraphModule) -> list[Declined]:
    """Re-assign the end of every region: its rule sees the root as its only operand; which are none, and why."""
    tree = Dominators()
    declined: list[Declined] = []
    alone = {node: assignment(node) for node in module.graph.nodes}
    for node, given in alone.items():
        if given is None or not _is_elementwise(node, given):
            tree.starts(node)
            continue
        operands = [given.operand(name) for name in given.active]
        root = tree.follows(node, operands)
        if root is not None and len(operands) > 1:
            region = _region(node, root, alone)
            if all(_is_linear(member, alone[member]) for member in region):
                declined.append((node.name, f"all that lies between {root.name} and it is linear"))
            else:
                facts = Facts().known(SLOPE, _slope_at_zero(module, node, root, region))
                assign(node, Assignment(FUNCTION, {"self": root}, ("self",), facts=facts))
    return declined


def _is_elementwise(node: fx.Node, given: Assignment) -> bool:
    if traits(given.target).pairs:
        return all(same_shape(given.operand(name), node) for name in given.active)
    return of_family(given.target, "elementwise")


def _region(end: fx.Node, root: fx.Node, alone: Mapping[fx.Node, Assignment | None]) -> set[fx.Node]:
    """Active nodes on the paths from `root` to `end`, `end` included."""
    region, queue = {end}, [end]
    while queue:
        given = alone[queue.pop()]
        operands = [given.arguments[name] for name in given.active] if given else []
        for operand in operands:
            if operand is not root and operand not in region:
                region.add(operand)
                queue.append(operand)
    return region


def _is_linear(node: fx.Node, given: Assignment | None) -> bool:
    known = traits(node.target)
    if known.powers:  # by a constant, which may be divided, too
        return given is not None and [known.powers[name] for name in given.active] == [1]
    return bool(known.sums)


def _slope_at_zero(module: fx.GraphModule, end: fx.Node, root: fx.Node, region: set[fx.Node]) -> float | None:
    """f'(0), or `None` where f(0) ≠ 0 or the function depends on more than numbers."""
    with torch.enable_grad():
        x = torch.zeros((), dtype=torch.float64, requires_grad=True)
        values: dict[fx.Node, torch.Tensor] = {root: x}

        def value(node: fx.Node) -> torch.Tensor:
            if node not in values and node.op == "get_attr" and attribute(module, str(node.target)).numel() == 1:
                values[node] = attribute(module, str(node.target)).double().reshape(())
            return values[node]

        try:
            for node in sorted(region):
                values[node] = node.target(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))  # type: ignore[operator]
        except KeyError:  # of something that is computed elsewhere
            return None
        y = values[end]
        if abs(float(y.detach())) > 1e-12:
            return None
        (slope,) = torch.autograd.grad(y, x, allow_unused=True)
    return 0.0 if slope is None or not torch.isfinite(slope) else float(slope)
