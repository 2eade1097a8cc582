"""No explainer draws random numbers: two runs would explain two different things."""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.passes.graph import Result, module_path, outputs, source_line


def refuse_randomness(module: fx.GraphModule) -> Result:
    """Make sure that no output depends on random numbers; what is drawn for nothing is left out.

    Raises:
        CaptureError: one does; the sentence names the op and where it is in the model.
    """
    needed = {node for node in outputs(module) if isinstance(node, fx.Node)}
    drawn: set[fx.Node] = set()
    for node in module.graph.nodes:
        if _draws(node) or not drawn.isdisjoint(node.all_input_nodes):
            drawn.add(node)
    for node in reversed(module.graph.nodes):
        if node in needed:
            if _draws(node):
                raise CaptureError(_sentence(node))
            needed.update(node.all_input_nodes)
        elif node in drawn and node.op == "call_function":
            module.graph.erase_node(node)
    return Result(module, bool(drawn))


def _draws(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _sentence(node: fx.Node) -> str:
    path, line = module_path(node), source_line(node)
    where = ", ".join([f"at {node.name}" + f" in {path}" * bool(path), *([line] if line else [])])
    return (
        f"The model draws random numbers as it runs ({node.target} {where}), and two runs would explain two different "
        "things: take the noise as an input of forward, or leave it out when the model is not in training."
    )
