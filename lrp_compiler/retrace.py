"""A graph module → an ExportedProgram, and a graph module on another device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx
from torch.export import Dim

from lrp_compiler.shapes import tensor_specs


def retrace(module: fx.GraphModule) -> torch.export.ExportedProgram:
    """Export the joint graph again; its sample inputs are zeros, its symbolic dims keep their names."""
    placeholders = module.graph.find_nodes(op="placeholder")
    values = [node.meta["val"] for node in placeholders]
    specs = tensor_specs(placeholders, [node.name for node in placeholders])
    dims: dict[str, Any] = {}
    shapes = []
    for value, spec in zip(values, specs.tensors, strict=True):
        shape = {}
        for position, (size, label) in enumerate(zip(value.shape, spec.shape, strict=True)):
            if isinstance(label, str):
                plain = size.node.expr.is_Symbol
                shape[position] = dims.setdefault(label, Dim(label)) if plain and label.isidentifier() else Dim.AUTO
        shapes.append(shape)
    with torch.no_grad():
        samples = tuple(
            torch.zeros([_hint(size) for size in value.shape], dtype=value.dtype, device=value.device) for value in values
        )
        return torch.export.export(module, samples, dynamic_shapes=(tuple(shapes),) if False else tuple(shapes))


def _hint(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def move(module: fx.GraphModule, device: torch.device | str) -> fx.GraphModule:
    """A copy of the graph module on `device`: its weights, and the tensors that it makes."""
    moved = fx.GraphModule(copy.copy(module), copy.deepcopy(module.graph)).to(device)
    for node in moved.graph.nodes:
        if "device" in node.kwargs and node.kwargs["device"] is not None:
            node.update_kwarg("device", torch.device(device))
    moved.recompile()
    return moved
