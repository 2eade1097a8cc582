"""What stands between the steps of a program and does nothing."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import arguments

aten = torch.ops.aten
CHECKS = (aten._assert_tensor_metadata.default, aten._assert_async.msg, aten._assert_scalar.default)


def tidy(module: fx.GraphModule) -> None:
    """Take out checks, whole slices and copies onto values of the same kind; put sizes of inputs in front; in place."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in CHECKS or (node.op == "call_module" and not node.users):
            graph.erase_node(node)
            continue
        same = _does_nothing(node)
        if same is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    *_, last = graph.find_nodes(op="placeholder")
    for node in graph.find_nodes(op="call_function", target=aten.sym_size.int):
        if node.args[0].op == "placeholder":
            last.append(node)
            last = node
    for node in graph.find_nodes(op="get_attr"):
        last.append(node)
        last = node
    module.recompile()


def _does_nothing(node: fx.Node) -> fx.Node | None:
    """What has the node's value already."""
    args = arguments(node)
    of: int | None = None
    if node.target == aten.slice.Tensor and _whole(*args[2:]):
        of = 0
    elif node.target == aten.slice_scatter.default and _whole(*args[3:]):
        of = 1
    elif node.target == aten.copy.default:
        one, other = (arg.meta["val"] for arg in args[:2])
        of = 1 if (one.shape, one.dtype) == (other.shape, other.dtype) else None
    same = None if of is None else args[of]
    return same if isinstance(same, fx.Node) else None


def _whole(start: Any = 0, end: Any = None, step: Any = 1) -> bool:
    """Whether a slice takes everything."""
    return start in (0, None) and (end is None or (type(end) is int and end >= sys.maxsize)) and step == 1
