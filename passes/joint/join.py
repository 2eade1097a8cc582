"""Promises resolved: the relevance graph spliced behind the forward graph.

    forward(x) → z, a        relevance(a, W) → R_x        →        joint(x) → z, R_x

Every promise is `kept` for now: the relevance graph reads the forward graph's own value. Symbolic sizes that the
relevance graph reads off promised values are taken from where the forward graph already has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph.tools import attribute, call, is_tensor, keep_tensor, module_path, note_of, outputs

aten = torch.ops.aten


def join(forward: fx.GraphModule, relevance: fx.GraphModule) -> fx.GraphModule:
    """One graph: the model's inputs (then the seed's) → flat outputs of the model, then the relevance of each input."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    by_name: dict[str, fx.Node] = {}
    sizes = _SizeTable(graph)
    for node in forward.graph.nodes:
        if node.op == "output":
            continue
        copies[node] = by_name[node.name] = graph.node_copy(node, lambda original: copies[original])
        copies[node].meta["custom"] = {"lrp": {"phase": "forward", "name": node.name, "module": module_path(node)}}
        sizes.remember(copies[node])
    last_placeholder = graph.find_nodes(op="placeholder")[-1]
    root = torch.nn.Module()
    for node in forward.graph.find_nodes(op="get_attr"):
        root.register_buffer(str(node.target), attribute(forward, str(node.target)))
    for node in relevance.graph.nodes:
        if node.op == "placeholder" and "promise" in node.meta:
            copies[node] = by_name[node.meta["promise"]]
        elif node.op == "placeholder":
            with graph.inserting_after(last_placeholder):
                copies[node] = last_placeholder = graph.placeholder(node.meta["seed"])
            copies[node].meta.update(node.meta)
        elif node.op == "output":
            own = [copies[item] if isinstance(item, fx.Node) else item for item in outputs(forward)]
            graph.output((*map(_own_value, own), *(copies[item] for item in _relevances(node).values())))
        elif node.op == "get_attr":
            copies[node] = graph.get_attr(keep_tensor(root, str(node.target), attribute(relevance, str(node.target))))
            copies[node].meta.update(node.meta)
        elif (known := sizes.find(node)) is not None:
            copies[node] = known
        else:
            copies[node] = graph.node_copy(node, lambda original: copies[original])
            copies[node].meta["custom"] = {"lrp": {"phase": "relevance", **note_of(node)}}
            sizes.remember(copies[node])
    joint = fx.GraphModule(root, graph)
    joint.graph.lint()
    return joint


def _own_value(item: Any) -> Any:
    """An input that is returned as it came gets a copy: a file cannot give one value two names."""
    if not isinstance(item, fx.Node) or item.op == "call_function":
        return item
    return call(item.graph, aten.clone.default, item, like=item)


def copy_repeated(joint: fx.GraphModule, own: int) -> None:
    """A relevance that is returned under two names becomes two values: a file cannot give one value two names.

    Args:
        joint: the joint graph, final.
        own: how many of its outputs are the model's.
    """
    flat, seen = outputs(joint), set()
    for place, item in enumerate(flat[own:], start=own):
        if item in seen:
            with joint.graph.inserting_before(joint.graph.output_node()):
                flat[place] = call(joint.graph, aten.clone.default, item, like=item)
            flat[place].meta["custom"] = item.meta.get("custom")
        seen.add(item)
    joint.graph.output_node().args = (tuple(flat),)
    joint.recompile()


def _relevances(output: fx.Node) -> Mapping[str, fx.Node]:
    return output.args[0]  # type: ignore[return-value]


def relevance_names(relevance: fx.GraphModule) -> list[str]:
    """Names of the inputs whose relevance the graph returns, in order."""
    return list(_relevances(relevance.graph.output_node()))


class _SizeTable:
    """Where each symbolic size can be read: the first node of the graph that has it."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._known: dict[Any, fx.Node] = {}

    def remember(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            self._known.setdefault(value.node.expr, node)

    def find(self, node: fx.Node) -> fx.Node | None:
        value = node.meta.get("val")
        if is_tensor(node) or not isinstance(value, torch.SymInt):
            return None
        return self._known.get(value.node.expr)
