"""Transposed convolutions of stride 1 written as plain convolutions, which runtimes have fast kernels for.

    conv_transpose2d(q, W, padding p)    →    conv2d(q, flip(Wᵀ), padding d·(k − 1) − p)

Wᵀ swaps input and output channels within each group. The flipped weights stay operations on the model's own weights, so
a file stores them once; a runtime folds them when it loads it.
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.passes.graph import Result, call, call_like, convolution_of
from lrp_compiler.rules import TRANSPOSED, bind, per_dim

aten = torch.ops.aten


def lower_transposes(module: fx.GraphModule) -> Result:
    """Rewrite the joint graph in place."""
    changed, declined = False, []
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in TRANSPOSED:
            continue
        given = bind(node.target, node.args, node.kwargs)
        weight, groups = given["weight"], given["groups"]
        shape = weight.meta["val"].shape
        dims = len(shape) - 2
        names = ("stride", "padding", "output_padding", "dilation")
        stride, padding, output_padding, dilation = (per_dim(given[name], dims) for name in names)
        kept = [reach * (size - 1) - pad for reach, size, pad in zip(dilation, shape[2:], padding, strict=True)]
        if any(step != 1 for step in stride):
            declined.append((node.name, f"its stride is {stride}"))
            continue
        if any(output_padding) or any(pad < 0 for pad in kept):
            declined.append((node.name, "it is padded by more than its kernel reaches"))
            continue
        with module.graph.inserting_before(node):
            flipped = _flipped(module.graph, weight, groups, node)
            target, *rest = convolution_of(given["bias"], stride, kept, dilation, groups)
            plain = call(module.graph, target, given["input"], flipped, given["bias"], *rest, like=node)
        plain.meta.update(node.meta)
        node.replace_all_uses_with(plain)
        module.graph.erase_node(node)
        changed = True
    return Result(module, changed, declined)


def _flipped(graph: fx.Graph, weight: fx.Node, groups: int, like: fx.Node) -> fx.Node:
    """Weights with channels swapped within each group, and spatial dims reversed."""
    count, inner, *kernel = weight.meta["val"].shape
    swapped = weight
    if groups > 1:
        swapped = call_like(graph, like, aten.reshape.default, weight, [groups, count // groups, inner, *kernel])
        swapped = call_like(graph, like, aten.transpose.int, swapped, 1, 2)
        swapped = call_like(graph, like, aten.reshape.default, swapped, [groups * inner, count // groups, *kernel])
    else:
        swapped = call_like(graph, like, aten.transpose.int, weight, 0, 1)
    spatial = [dim for dim, size in enumerate(kernel, start=2) if size > 1]
    return call_like(graph, like, aten.flip.default, swapped, spatial) if spatial else swapped
