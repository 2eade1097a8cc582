"""Regions of a program in which gradients are on or off: relevance knows no such thing, their ops stand for themselves.

submod = self.submod_1; y = wrap_with_set_grad_enabled(True, submod, x, w); z = y[0]    →    z = linear(x, w)
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.torch_private import changed

REGION = torch.ops.higher_order.wrap_with_set_grad_enabled


def without_grad_regions(program: ExportedProgram) -> ExportedProgram:
    """The program with such regions written out; the one given stays as it is."""
    if not program.graph.find_nodes(op="call_function", target=REGION):
        return program
    module = fx.GraphModule(program.graph_module, copy.deepcopy(program.graph))
    signature = copy.deepcopy(program.graph_signature)
    while nodes := module.graph.find_nodes(op="call_function", target=REGION):
        for node in nodes:
            _write_out(module, node, signature)
    module.graph.eliminate_dead_code()
    module.recompile()
    return changed(program, root=module, graph=module.graph, graph_signature=signature, example_inputs=None)


def _write_out(module: fx.GraphModule, node: fx.Node, signature: Any) -> None:
    region: Any = node.args[1]
    inner = getattr(module, str(region.target))
    values = dict(zip(inner.graph.find_nodes(op="placeholder"), node.args[2:], strict=True))
    with module.graph.inserting_before(node):
        for each in inner.graph.nodes:
            if each.op in ("placeholder", "output"):
                continue
            values[each] = module.graph.node_copy(each, values.__getitem__)
            if each.op == "get_attr":  # a tensor of its own, or a region inside
                name = f"{region.target}_{each.target}"
                setattr(module, name, getattr(inner, str(each.target)))
                values[each].target = name
    results: Any = inner.graph.output_node().args[0]
    for user in list(node.users):
        if user.target is operator.getitem:
            made = values[results[user.args[1]]]
            user.replace_all_uses_with(made)
            signature.replace_all_uses(user.name, made.name)
            module.graph.erase_node(user)
    module.graph.erase_node(node)
