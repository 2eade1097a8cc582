"""A graph module on another device: its weights, the tensors that it makes, and what it says of its values.

zeros([3], device=cpu)  on cuda      →      zeros([3], device=cuda)
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import fx

from lrp_compiler.passes.graph import assign, assignment, is_tensor
from lrp_compiler.torch_private import unguarded


def move(module: fx.GraphModule, device: torch.device | str) -> fx.GraphModule:
    """A copy of the graph module on `device`."""
    moved = fx.GraphModule(copy.copy(module), copy.deepcopy(module.graph)).to(device)
    copies = dict(zip(module.graph.nodes, moved.graph.nodes, strict=True))
    for node in moved.graph.nodes:
        if (given := assignment(node)) is not None:
            # In a joint graph they are nodes of the forward graph that it was made of.
            arguments = fx.map_arg(dict(given.arguments), lambda known: copies.get(known, known))
            assign(node, replace(given, arguments=dict(arguments)))
        if "device" in node.kwargs and node.kwargs["device"] is not None:
            node.update_kwarg("device", torch.device(device))
        if is_tensor(node):
            with unguarded(node):
                node.meta["val"] = node.meta["val"].to(device)
    moved.recompile()
    return moved
