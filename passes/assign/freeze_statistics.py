"""Normalisations written out in primitives, recognised by their structure.

    pow(x, 2) → mean(dim) → add ε → rsqrt ┐
    x ────────────────────────────────────┴ mul          the rsqrt is a frozen factor of x

In `mul(x, f)` or `div(x, f)`, f is a statistic of x when it is broadcast along dims that a reduction took away, was
computed from what x was computed from, and shrinks x as x grows: a product takes a reciprocal root, a division a root
or a norm (`x · √mean x²` is no normalisation). Its relevance rule is then that of a constant factor: without that the
product rule would send half of the relevance into the variance.
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.passes.graph import arguments, inverts, is_tensor
from lrp_compiler.rules import traits
from lrp_compiler.torch_private import statically_known_true

aten = torch.ops.aten

REACH = 16
"""Nodes looked at on each side: what a written-out normalisation takes, so that the pass stays linear."""


def statistics(module: fx.GraphModule) -> set[tuple[fx.Node, fx.Node]]:
    """The (product, factor) pairs in which the factor is a statistic of the other operand."""
    found = set()
    for node in module.graph.nodes:
        if (
            node.op != "call_function"
            or not traits(node.target).powers
            or not all(is_tensor(arg) for arg in node.args[:2])
        ):
            continue
        left, right = node.args[:2]
        candidates = [(left, right)] if _divides(node) else [(left, right), (right, left)]
        for value, factor in candidates:
            if _is_statistic(node, value, factor):
                found.add((node, factor))
                break
    return found


def _is_statistic(node: fx.Node, value: fx.Node, factor: fx.Node) -> bool:
    if not _is_broadcast(factor, node):
        return False
    sources, rooted, inverted = _reduced_sources(factor)
    return rooted and inverted != _divides(node) and bool(sources & _ancestry(value))


def _divides(node: fx.Node) -> bool:
    return min(traits(node.target).powers.values()) < 0


def _is_broadcast(factor: fx.Node, node: fx.Node) -> bool:
    small, large = factor.meta["val"].shape, node.meta["val"].shape
    padded = (1,) * (len(large) - len(small)) + tuple(small)
    kept_by_expand = factor.target is aten.expand.default
    return kept_by_expand or any(
        statically_known_true(a == 1) and not statically_known_true(b == 1) for a, b in zip(padded, large, strict=True)
    )


def _reduced_sources(factor: fx.Node) -> tuple[set[fx.Node], bool, bool]:
    """What the reductions that lead to `factor` were computed from; whether a root, and a reciprocal, was taken."""
    sources: set[fx.Node] = set()
    rooted = inverted = False
    queue, seen = [factor], {factor}
    while queue and len(seen) <= REACH:
        node = queue.pop()
        if node.op == "call_function" and traits(node.target).reduces:
            rooted |= traits(node.target).roots or _of_amounts(node)
            sources |= _ancestry(arguments(node)[0])
            continue
        if node.op != "call_function" or not traits(node.target).arithmetic:
            continue
        rooted |= _takes_root(node)
        inverted ^= inverts(node)
        fresh = [operand for operand in node.all_input_nodes if operand not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return sources, rooted, inverted


def _of_amounts(node: fx.Node) -> bool:
    """Whether a reduction is of |x|, as the norm is that needs no root."""
    reduced = arguments(node)[0]
    return isinstance(reduced, fx.Node) and reduced.target is aten.abs.default


def _takes_root(node: fx.Node) -> bool:
    if traits(node.target).roots:
        return True
    return node.target is aten.pow.Tensor_Scalar and node.args[1] in (0.5, -0.5)


def _ancestry(node: fx.Node) -> set[fx.Node]:
    """The node and what it was computed from by the steps of a normalisation; weights and constants left out."""
    ancestry = {node}
    queue = [node]
    while queue and len(ancestry) <= REACH:
        current = queue.pop()
        known = traits(current.target)
        if current.op != "call_function" or not (known.arithmetic or known.reduces):
            continue
        fresh = [operand for operand in current.all_input_nodes if operand.op != "get_attr" and operand not in ancestry]
        ancestry.update(fresh)
        queue.extend(fresh)
    return ancestry
