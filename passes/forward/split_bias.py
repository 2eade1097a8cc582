"""Biases as operands of an addition: what a composite asks for that takes every primitive by itself.

linear(x, W, b); convolution(x, W, b)    →    add(linear(x, W), b); add(convolution(x, W), reshape(b))
addmm(b, x, W)                           →    add(mm(x, W), b)
"""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from lrp_compiler.passes.graph.tools import arguments, call

aten = torch.ops.aten

CONVOLUTIONS = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.convolution.default,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
}
BIAS = 2


def split_bias(module: fx.GraphModule) -> PassResult:
    """Rewrite the forward graph in place."""
    changed = False
    for node in list(module.graph.nodes):
        args = list(arguments(node))
        plain = node.kwargs.get("alpha", 1) == 1 and node.kwargs.get("beta", 1) == 1
        if node.target is aten.addmm.default and plain:
            bias, product = args[0], (aten.mm.default, args[1:])
        elif node.target in {aten.linear.default, *CONVOLUTIONS} and len(args) > BIAS and args[BIAS] is not None:
            bias, product = args[BIAS], (node.target, [*args[:BIAS], None, *args[BIAS + 1 :]])
        else:
            continue
        with module.graph.inserting_before(node):
            if node.target in CONVOLUTIONS:
                spatial = node.meta["val"].dim() - 2
                bias = call(module.graph, aten.reshape.default, bias, [-1] + [1] * spatial, like=node)
            mapped = call(module.graph, product[0], *product[1], like=node)
            added = call(module.graph, aten.add.Tensor, mapped, bias, like=node)
        node.replace_all_uses_with(added)
        module.graph.erase_node(node)
        changed = True
    module.recompile()
    return PassResult(module, changed)
