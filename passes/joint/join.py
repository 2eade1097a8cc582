"""Promises resolved: the relevance graph spliced behind the forward graph.

    forward(x) → z, a        relevance(a, W) → R_x        →        joint(x) → z, R_x

The relevance graph reads the forward graph's own values. Symbolic sizes that it reads off them are taken from where the
forward graph already has them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from lrp_compiler.passes.graph import (
    Origin,
    Sizes,
    add_placeholder,
    assignment,
    attribute,
    call,
    copy_node,
    is_tensor,
    keep_tensor,
    module_path,
    origin,
    outputs,
    set_origin,
)

aten = torch.ops.aten


def join(forward: fx.GraphModule, relevance: fx.GraphModule) -> fx.GraphModule:
    """One graph: the model's inputs (then the seed's) → flat outputs of the model, then the relevance of each input."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    by_name: dict[str, fx.Node] = {}
    sizes = Sizes(graph)
    for node in forward.graph.nodes:
        if node.op == "output":
            continue
        copies[node] = by_name[node.name] = copy_node(graph, node, copies)
        given = assignment(node)
        rule = given.rule if given is not None else ""
        set_origin(copies[node], Origin("forward", node.name, module_path(node), rule))
        copies[node].meta.pop("custom", None)
        sizes.add(copies[node])
    last_placeholder = graph.find_nodes(op="placeholder")[-1]
    root = torch.nn.Module()
    for node in forward.graph.find_nodes(op="get_attr"):
        root.register_buffer(str(node.target), attribute(forward, str(node.target)))
    for node in relevance.graph.nodes:
        if node.op == "placeholder" and "promise" in node.meta:
            copies[node] = by_name[node.meta["promise"]]
        elif node.op == "placeholder":
            with graph.inserting_after(last_placeholder):
                copies[node] = last_placeholder = add_placeholder(graph, node.meta["seed"])
            copies[node].meta.update(node.meta)
        elif node.op == "output":
            own = [copies[item] if isinstance(item, fx.Node) else item for item in outputs(forward)]
            graph.output((*own, *(copies[item] for item in _relevances(node).values())))
        elif node.op == "get_attr":
            copies[node] = graph.get_attr(keep_tensor(root, str(node.target), attribute(relevance, str(node.target))))
            copies[node].meta.update(node.meta)
        elif (known := sizes.node(node.meta.get("val"))) is not None:
            copies[node] = known
        else:
            copies[node] = copy_node(graph, node, copies)
            set_origin(copies[node], origin(node) or Origin("relevance", ""))
            sizes.add(copies[node])
    joint = fx.GraphModule(root, graph)
    joint.graph.lint()
    return joint


def copy_repeated(joint: fx.GraphModule, own: int) -> None:
    """What is returned under two names, or as it came in, becomes a value of its own: a file cannot name one twice.

    Args:
        joint: the joint graph, final.
        own: how many of its outputs are the model's.
    """
    flat, seen = outputs(joint), set()
    for place, item in enumerate(flat):
        if not is_tensor(item):
            continue
        if item in seen or item.op != "call_function":
            with joint.graph.inserting_before(joint.graph.output_node()):
                flat[place] = call(joint.graph, aten.clone.default, item, like=item)
            known = Origin("forward" if place < own else "relevance", item.name)
            set_origin(flat[place], origin(item) or known)
        seen.add(item)
    joint.graph.output_node().args = (tuple(flat),)
    joint.recompile()


def constants_first(joint: fx.GraphModule) -> None:
    """Put the weights in front of everything else, as they are in a program: a graph out of a file looks the same."""
    first = next(iter(joint.graph.nodes))
    for node in joint.graph.find_nodes(op="get_attr"):
        if node is first:
            first = first.next
        else:
            first.prepend(node)
    joint.recompile()


def _relevances(output: fx.Node) -> Mapping[str, fx.Node]:
    return output.args[0]  # type: ignore[return-value]
