"""What stands between the steps of a program and does nothing."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import arguments, attribute, canonicalise

aten = torch.ops.aten


def tidy(module: fx.GraphModule) -> None:
    """Take out what changes nothing, and writes of all that is there; put sizes of inputs and constants in front, those
    that the forward itself makes once each, though it makes them at every step; in place."""
    graph = module.graph
    for node in list(graph.nodes):
        written = _written(node)
        if written is not None:
            node.replace_all_uses_with(written)
            graph.erase_node(node)
    canonicalise(module)
    *_, last = graph.find_nodes(op="placeholder")
    for node in graph.find_nodes(op="call_function", target=aten.sym_size.int):
        if node.args[0].op == "placeholder":
            last.append(node)
            last = node
    for node in graph.find_nodes(op="get_attr"):
        last.append(node)
        last = node
    made: list[tuple[fx.Node, Tensor]] = []
    named = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    for node in graph.find_nodes(op="get_attr"):
        value = attribute(module, str(node.target))
        if not isinstance(value, Tensor) or node.target in named:
            continue
        like = next((one for one, known in made if known.dtype == value.dtype and known.equal(value)), None)
        if like is None:
            made.append((node, value))
        else:
            node.replace_all_uses_with(like)
            graph.erase_node(node)
    module.recompile()


def _written(node: fx.Node) -> fx.Node | None:
    """What is written over a whole value of the same kind, and so is the node's value."""
    args = arguments(node)
    same = None
    if node.target == aten.slice_scatter.default and _whole(*args[3:]):
        same = args[1]
    elif node.target == aten.copy.default:
        one, other = (arg.meta["val"] for arg in args[:2])
        same = args[1] if (one.shape, one.dtype) == (other.shape, other.dtype) else None
    return same if isinstance(same, fx.Node) else None


def _whole(start: object = 0, end: object = None, step: object = 1) -> bool:
    """Whether a slice takes everything."""
    return start in (0, None) and (end is None or (type(end) is int and end >= sys.maxsize)) and step == 1
