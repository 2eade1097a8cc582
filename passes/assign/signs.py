"""Which values are ≥ 0 whatever the input: after ReLU, sigmoid, softmax, exp, squares, and what keeps the sign.

Where an operand is known to be ≥ 0, |x| = x and x⁻ = 0: the signed rules fold to fewer maps. What each op does to signs
is one of its traits.
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.passes.graph import assignment
from lrp_compiler.rules import NONNEGATIVE, Call, bind, traits


def mark_nonnegative(module: fx.GraphModule) -> None:
    """Write down `NONNEGATIVE`."""
    known = nonnegative_values(module)
    for node in module.graph.nodes:
        given = assignment(node)
        if given is not None:
            given.know(NONNEGATIVE, tuple(name for name in given.active if given.arguments[name] in known))


def nonnegative_values(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose value is ≥ 0 for every input."""
    known: set[fx.Node] = set()
    for node in module.graph.nodes:
        sign = traits(node.target).sign if node.op == "call_function" else None
        if sign is None:
            continue
        floats = [operand for operand in node.all_input_nodes if _is_float(operand)]
        if sign(Call(bind(node.target, node.args, node.kwargs), floats, known.__contains__)):
            known.add(node)
    return known


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()
