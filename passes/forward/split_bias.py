"""Biases as operands of an addition: what a composite asks for that takes every primitive by itself.

linear(x, W, b); convolution(x, W, b)    →    add(linear(x, W), b); add(convolution(x, W), reshape(b))
addmm(b, x, W)                           →    add(mm(x, W), b)
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.passes.graph import Result, arguments, call
from lrp_compiler.rules import bind, traits

aten = torch.ops.aten


def split_bias(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    changed, declined = False, []
    for node in list(module.graph.nodes):
        known = traits(node.target) if node.op == "call_function" else None
        if known is None or known.bias is None:
            continue
        given = bind(node.target, node.args, node.kwargs)
        bias = given[known.bias]
        if bias is None:
            continue
        if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
            declined.append((node.name, "its bias or its product has a factor"))
            continue
        with module.graph.inserting_before(node):
            args = [None if argument is bias else argument for argument in arguments(node)]
            if (spatial := given["weight"].meta["val"].dim() - 2 if "weight" in given else 0) > 0:
                bias = call(module.graph, aten.reshape.default, bias, [-1] + [1] * spatial, like=node)
            if node.target is aten.addmm.default:
                mapped = call(module.graph, aten.mm.default, given["mat1"], given["mat2"], like=node)
            else:
                mapped = call(module.graph, node.target, *args, like=node)
            added = call(module.graph, aten.add.Tensor, mapped, bias, like=node)
        node.replace_all_uses_with(added)
        module.graph.erase_node(node)
        changed = True
    return Result(module, changed, declined)
