"""A graph module → an ExportedProgram, and a graph module on another device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx
from torch.export import Dim

from lrp_compiler.quiet import quiet
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
                shape[position] = dims.setdefault(label, _dim(size, label))
        shapes.append(shape)
    with torch.no_grad(), quiet():
        samples = tuple(
            torch.zeros([_hint(size) for size in value.shape], dtype=value.dtype, device=value.device)
            for value in values
        )
        return torch.export.export(module, samples, dynamic_shapes=tuple(shapes))


def _dim(size: torch.SymInt, label: str) -> Any:
    """A dim of that name in the range that the capture found.

    Sizes of images are left to torch: what a strided convolution's transpose cuts off depends on their remainder, which
    holds for every size but is not something that torch can prove.
    """
    symbol, shape_env = size.node.expr, size.node.shape_env
    if not symbol.is_Symbol or label not in ("batch", "sequence"):
        return Dim.AUTO
    known = shape_env.var_to_range.get(symbol)
    bounds = {}
    if known is not None:
        bounds = {
            key: int(value)
            for key, value in (("min", known.lower), ("max", known.upper))
            if value.is_Integer and abs(int(value)) < MANY
        }
    return Dim(label, **bounds)


MANY = 1 << 31
"""A bound from here on is none."""


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
