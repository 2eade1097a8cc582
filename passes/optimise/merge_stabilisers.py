"""Stabilisers behind a ReLU without signs, and without the value in front of it.

    a = relu(z):    (g · sgn a) · |z| / (|z| + ε)    →    (g · a) / (a + ε)

Where z > 0 both are g · z / (z + ε), and elsewhere 0. What was z's relevance in unit form, g · sgn a, is g · a now, its
relevance in total form. Nobody needs z any more: it is no promise, and a runtime may fuse the ReLU with what comes
before it. Factors that stand between the two products, as masks of z's relevance do, stay there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import Result, arguments, call_like, is_named, origin, set_origin
from lrp_compiler.rules import traits

aten = torch.ops.aten


def merge_stabilisers(relevance: fx.GraphModule, forward: fx.GraphModule) -> Result:
    """Rewrite the relevance graph in place; its placeholders are named after values of the forward graph."""
    values = {node.name: node for node in forward.graph.nodes}
    changed, declined = False, []
    for node in list(relevance.graph.nodes):
        found = _matched(node)
        if found is None:
            continue
        if isinstance(found, str):
            declined.append((node.name, found))
            continue
        g, activation, z, epsilon, between = found
        if not _is_relu_of(activation, z, values):
            declined.append((node.name, "the sign is not that of the ReLU of the value that is stabilised"))
            continue
        signed = arguments(between[0])[1] if between else arguments(node)[0]
        with relevance.graph.inserting_before(node):
            total = numerator = call_like(relevance.graph, signed, aten.mul.Tensor, g, activation)
            for product in between:
                factor = arguments(product)[0]
                numerator = call_like(relevance.graph, product, aten.mul.Tensor, factor, numerator)
            size = call_like(relevance.graph, node, aten.add.Tensor, activation, epsilon)
            quotient = call_like(relevance.graph, node, aten.div.Tensor, numerator, size)
        named, made = origin(signed), origin(total)
        if named is not None and named.form and made is not None:
            set_origin(total, made.named("total", named.of))
        set_origin(quotient, origin(node))
        node.replace_all_uses_with(quotient)
        changed = True
    changed |= relevance.graph.eliminate_dead_code()
    return Result(relevance, changed, declined)


def _matched(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node, float, list[fx.Node]] | str | None:
    """g, a, z and ε of `mul(mul(g, sign(a)), div(abs(z), add(abs(z), ε)))`; products with other factors in between.

    Where z is stabilised so, but something else is missing: what.
    """
    signed, quotient = _operands(node, aten.mul.Tensor)
    between: list[fx.Node] = []
    while _is_between(signed):
        between.insert(0, signed)
        signed = arguments(signed)[1]
    g, sign = _operands(signed, aten.mul.Tensor)
    size, stabilised = _operands(quotient, aten.div.Tensor)
    same, epsilon = _operands(stabilised, aten.add.Tensor)
    (activation,), (z,) = _operands(sign, aten.sign.default, 1), _operands(size, aten.abs.default, 1)
    if size is None or size is not same or not isinstance(epsilon, (int, float)):
        return None
    return "what it stabilises takes no sign" if activation is None else (g, activation, z, epsilon, between)


def _is_between(node: Any) -> bool:
    """Whether it is the product of a factor and a product that nobody else reads, nor is it called any value's."""
    _, inner = _operands(node, aten.mul.Tensor)
    return _operands(inner, aten.mul.Tensor)[1] is not None and len(node.users) == 1 and not is_named(node)


def _operands(node: object, target: object, count: int = 2) -> tuple[Any, ...]:
    """The arguments of a call of `target`, `None`s for anything else."""
    if isinstance(node, fx.Node) and node.target is target and not node.kwargs and len(node.args) == count:
        return arguments(node)
    return (None,) * count


def _is_relu_of(activation: object, z: object, values: dict[str, fx.Node]) -> bool:
    a, before = _forward_value(activation, values), _forward_value(z, values)
    return a is not None and before is not None and a.target is aten.relu.default and arguments(a)[0] is before


def _forward_value(node: object, values: dict[str, fx.Node]) -> fx.Node | None:
    """The forward value that a placeholder, perhaps in another precision, stands for."""
    while isinstance(node, fx.Node) and traits(node.target).casts:
        node = arguments(node)[0]
    return values.get(node.meta.get("promise", "")) if isinstance(node, fx.Node) else None
