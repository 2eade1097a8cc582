"""The joint graph taken apart again: a forward graph that hands values over, and a relevance graph that stands alone.

    joint(x) → z, R_x        →        forward(x) → z, a        relevance(x, a) → R_x

Weights that both need are shared between the two. A forward run once serves any number of relevance runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph.tools import attribute, is_tensor, note_of, outputs

aten = torch.ops.aten


def split(joint: fx.GraphModule, inputs: int, own: int) -> tuple[fx.GraphModule, fx.GraphModule, list[str]]:
    """Split the joint graph where relevance begins.

    Args:
        joint: the explainer's graph: model inputs, seed inputs → flat outputs, relevances.
        inputs: how many of its placeholders the forward takes.
        own: how many of its outputs are the model's.

    Returns:
        forward: `(model inputs) → (*outputs, *kept)`;
        relevance: `(*kept, *seed inputs) → relevances`;
        the names of the kept values.
    """
    flat = outputs(joint)
    placeholders = joint.graph.find_nodes(op="placeholder")
    seeds = placeholders[inputs:]
    backward = _needed([item for item in flat[own:] if isinstance(item, fx.Node)], joint)
    forward = _needed([item for item in flat[:own] if isinstance(item, fx.Node)], joint) | set(placeholders[:inputs])
    shared = {node for node in backward if node in forward or _phase(node) == "forward"} - set(seeds)
    late = backward - shared
    # A value at the border is handed over if relevance reads it; weights are simply there on both sides.
    border = [
        node
        for node in joint.graph.nodes
        if node in shared and node.op != "get_attr" and is_tensor(node) and (_is_read(node, late) or node in flat[own:])
    ]
    early = _needed(border, joint) | forward
    return (
        _forward(joint, early, flat[:own], border),
        _relevance(joint, late, border, seeds, flat[own:]),
        [node.name for node in border],
    )


def _phase(node: fx.Node) -> str:
    note = note_of(node)
    return str(note.get("phase", ""))


def _needed(nodes: list[fx.Node], joint: fx.GraphModule) -> set[fx.Node]:
    needed, stack = set(nodes), list(nodes)
    while stack:
        fresh = [source for source in stack.pop().all_input_nodes if source not in needed]
        needed.update(fresh)
        stack.extend(fresh)
    return needed


def _is_read(node: fx.Node, late: set[fx.Node]) -> bool:
    return any(user in late for user in node.users)


def _forward(joint: fx.GraphModule, early: set[fx.Node], own: list[Any], border: list[fx.Node]) -> fx.GraphModule:
    graph, root = fx.Graph(), torch.nn.Module()
    copies: dict[fx.Node, fx.Node] = {}
    for node in joint.graph.nodes:
        if node in early:
            copies[node] = _copied(graph, root, joint, node, copies)
    values = [copies[item] if isinstance(item, fx.Node) else item for item in [*own, *border]]
    graph.output(tuple(_own_names(graph, values)))
    return _module(root, graph)


def _own_names(graph: fx.Graph, values: list[Any]) -> list[Any]:
    """A value that is returned twice, or as it came in, gets a copy: a file cannot give one value two names."""
    seen: set[Any] = set()
    named = []
    for value in values:
        if isinstance(value, fx.Node):
            if value in seen or value.op == "placeholder":
                meta = value.meta
                value = graph.call_function(aten.clone.default, (value,))
                value.meta["val"] = meta["val"]
            seen.add(value)
        named.append(value)
    return named


def _relevance(
    joint: fx.GraphModule, late: set[fx.Node], border: list[fx.Node], seeds: list[fx.Node], relevances: list[Any]
) -> fx.GraphModule:
    graph, root = fx.Graph(), torch.nn.Module()
    copies: dict[fx.Node, fx.Node] = {}
    sizes: dict[Any, tuple[fx.Node, int]] = {}
    for node in [*border, *seeds]:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta.update(node.meta)
        for dim, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                sizes.setdefault(size.node.expr, (copies[node], dim))

    def fetch(node: fx.Node) -> fx.Node:
        if node not in copies:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and value.node.expr in sizes:
                copies[node] = graph.call_function(aten.sym_size.int, sizes[value.node.expr])
                copies[node].meta.update(node.meta)
            else:  # a weight, or a size that is calculated
                for source in node.all_input_nodes:
                    fetch(source)
                copies[node] = _copied(graph, root, joint, node, copies)
        return copies[node]

    for node in joint.graph.nodes:
        if node in late and node not in copies:
            for source in node.all_input_nodes:
                fetch(source)
            copies[node] = _copied(graph, root, joint, node, copies)
    graph.output(tuple(_own_names(graph, [fetch(item) for item in relevances])))
    return _module(root, graph)


def _copied(
    graph: fx.Graph, root: torch.nn.Module, joint: fx.GraphModule, node: fx.Node, copies: dict[fx.Node, fx.Node]
) -> fx.Node:
    if node.op == "get_attr":
        name = str(node.target)
        if not hasattr(root, name):
            root.register_buffer(name, attribute(joint, name))
    return graph.node_copy(node, copies.__getitem__)


def _module(root: torch.nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(root, graph)
    module.graph.lint()
    return module
