"""Stabilisers behind a ReLU without signs, and without the value in front of it.

    a = relu(z):    (g · sgn a) · |z| / (|z| + ε)    →    (g · a) / (a + ε)

Where z > 0 both are g · z / (z + ε), and elsewhere 0. What was z's relevance in unit form, g · sgn a, is g · a now, its
relevance in total form. Nobody needs z any more: it is no promise, and a runtime may fuse the ReLU with what comes
before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from lrp_compiler.passes.graph.notes import add_note, noted_call
from lrp_compiler.passes.graph.tools import arguments, note_of

aten = torch.ops.aten

CASTS = {aten.to.dtype, aten._to_copy.default}


def merge_stabilisers(relevance: fx.GraphModule, forward: fx.GraphModule) -> PassResult:
    """Rewrite the relevance graph in place; its placeholders are named after values of the forward graph."""
    values = {node.name: node for node in forward.graph.nodes}
    changed = False
    for node in list(relevance.graph.nodes):
        found = _matched(node, values)
        if found is None:
            continue
        g, activation, epsilon = found
        signed = arguments(node)[0]
        with relevance.graph.inserting_before(node):
            total = noted_call(relevance.graph, signed, aten.mul.Tensor, g, activation)
            size = noted_call(relevance.graph, node, aten.add.Tensor, activation, epsilon)
            quotient = noted_call(relevance.graph, node, aten.div.Tensor, total, size)
        if "of" in note_of(signed):
            add_note(total, form="total", of=note_of(signed)["of"])
        quotient.meta["custom"] = node.meta.get("custom")
        node.replace_all_uses_with(quotient)
        changed = True
    relevance.graph.eliminate_dead_code()
    relevance.recompile()
    return PassResult(relevance, changed)


def _matched(node: fx.Node, values: dict[str, fx.Node]) -> tuple[fx.Node, fx.Node, float] | None:
    """g, a and ε of `mul(mul(g, sign(a)), div(abs(z), add(abs(z), ε)))` with a = relu(z)."""
    signed, quotient = _operands(node, aten.mul.Tensor)
    g, sign = _operands(signed, aten.mul.Tensor)
    size, stabilised = _operands(quotient, aten.div.Tensor)
    same, epsilon = _operands(stabilised, aten.add.Tensor)
    (activation,), (z,) = _operands(sign, aten.sign.default, 1), _operands(size, aten.abs.default, 1)
    if size is not same or not isinstance(epsilon, (int, float)) or not _is_relu_of(activation, z, values):
        return None
    return g, activation, epsilon


def _operands(node: Any, target: Any, count: int = 2) -> tuple[Any, ...]:
    """The arguments of a call of `target`, `None`s for anything else."""
    if isinstance(node, fx.Node) and node.target is target and not node.kwargs and len(node.args) == count:
        return arguments(node)
    return (None,) * count


def _is_relu_of(activation: Any, z: Any, values: dict[str, fx.Node]) -> bool:
    a, before = _forward_value(activation, values), _forward_value(z, values)
    return a is not None and before is not None and a.target is aten.relu.default and arguments(a)[0] is before


def _forward_value(node: Any, values: dict[str, fx.Node]) -> fx.Node | None:
    """The forward value that a placeholder, perhaps in another precision, stands for."""
    while isinstance(node, fx.Node) and node.target in CASTS:
        node = arguments(node)[0]
    return values.get(node.meta.get("promise", "")) if isinstance(node, fx.Node) else None
