"""Which values are ≥ 0 whatever the input: after ReLU, sigmoid, softmax, exp, squares, and what keeps the sign.

Where an operand is known to be ≥ 0, |x| = x and x⁻ = 0: the signed rules fold to fewer maps. What each op does to signs
is one of its traits.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from lrp_compiler.passes.graph import Scan, assignment, everywhere, outputs, result_number, scan_of
from lrp_compiler.rules import NONNEGATIVE, Call, bind, traits


def mark_nonnegative(module: fx.GraphModule) -> None:
    """Write down `NONNEGATIVE`, in the bodies of loops, too."""
    known = nonnegative_values(module)
    for graph in everywhere(module):
        for node in graph.graph.nodes:
            given = assignment(node)
            if given is not None:
                given.know(NONNEGATIVE, tuple(name for name in given.active if given.arguments[name] in known))


def nonnegative_values(module: fx.GraphModule, given: Collection[fx.Node] = ()) -> set[fx.Node]:
    """The nodes whose value is ≥ 0 for every input, those in the bodies of loops among them.

    Args:
        module: the graph.
        given: its placeholders of which that is known.
    """
    known = set(given)
    for node in module.graph.nodes:
        if isinstance(node.target, Scan):
            known |= _in_steps(node, known)
            continue
        sign = traits(node.target).sign if node.op == "call_function" else None
        if sign is None:
            continue
        if sign(Call(bind(node.target, node.args, node.kwargs), floats_of(node), known.__contains__)):
            known.add(node)
    return known


def _in_steps(node: fx.Node, known: Collection[fx.Node]) -> set[fx.Node]:
    """The same of a loop: a state is ≥ 0 if the first one is and every step leaves it so."""
    loop = scan_of(node)
    made = outputs(loop.body)
    start = [place for place, operand in zip(loop.placeholders, node.args, strict=True) if operand in known]
    while True:
        found = nonnegative_values(loop.body, start)
        states = zip(loop.placeholders, made[: loop.states], strict=False)
        lost = [place for place, result in states if place in start and result not in found]
        if not lost:
            return found | {user for user in node.users if made[result_number(user)] in found}
        start = [place for place in start if place not in lost]


def floats_of(node: fx.Node) -> list[fx.Node]:
    """The operands of a node that are floating-point tensors."""
    return [operand for operand in node.all_input_nodes if _is_float(operand)]


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()
