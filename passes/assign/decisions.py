"""Hard decisions: where the output depends on an activation and relevance cannot follow.

    h → argmax → embedding → output         which row it is depends on h; no share of the row is h's

A decision's value says which one, not how much: an argmax, a comparison, a cast to whole numbers.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from lrp_compiler.passes.graph import assignment, is_tensor, module_path


def decisions(module: fx.GraphModule, explained: fx.Node, reached: Collection[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Float inputs that take no relevance although the explained value depends on them → the decision in between.

    Args:
        module: the forward graph, with its active nodes annotated.
        explained: the value that is explained.
        reached: the nodes that relevance reaches.
    """
    behind: dict[fx.Node, fx.Node] = {}
    needed = {explained}
    for node in reversed(module.graph.nodes):
        if node not in needed:
            continue
        needed.update(node.all_input_nodes)
        given = assignment(node)
        active = () if given is None else [given.arguments[name] for name in given.active]
        for operand in node.all_input_nodes:
            if given is None and operand not in reached and _carries(operand) and _looks_at_values(node):
                behind[operand] = node
            elif node in behind and operand in active and operand not in reached:
                behind.setdefault(operand, behind[node])
    return {
        node: decision
        for node, decision in behind.items()
        if node.op == "placeholder" and node.meta["val"].is_floating_point()
    }


def described(decision: fx.Node) -> str:
    """Which decision it is, and where."""
    path = module_path(decision)
    name = str(decision.target).removeprefix("aten.").partition(".")[0].strip("_")
    return f"{name} at {decision.name}{f' in {path}' if path else ''}"


def _looks_at_values(node: fx.Node) -> bool:
    """Whether the node is calculated from its operand's values, not from its shape (`zeros_like`)."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return node.op == "call_function" and is_tensor(node) and not name.endswith("_like") and not name.startswith("new_")


def _carries(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and (node.op == "placeholder" or assignment(node) is not None)
