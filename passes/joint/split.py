"""The joint graph taken apart again: a forward graph that hands values over, and a relevance graph that stands alone.

    joint(x) → z, R_x        →        forward(x) → z, a        relevance(x, a) → R_x

Weights that both need are shared between the two. A forward run once serves any number of relevance runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx
from torch.fx.node import Argument

from lrp_compiler.passes.graph import Sizes, add_placeholder, attribute, copy_node, is_tensor, origin, outputs

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
    backward = _needed(item for item in flat[own:] if isinstance(item, fx.Node))
    forward = _needed(item for item in flat[:own] if isinstance(item, fx.Node)) | set(placeholders[:inputs])
    shared = {node for node in backward if node in forward or _is_forward(node)} - set(seeds)
    late = backward - shared
    # A value at the border is handed over if relevance reads it; weights are simply there on both sides.
    border = [
        node
        for node in joint.graph.nodes
        if node in shared and node.op != "get_attr" and is_tensor(node) and (_is_read(node, late) or node in flat[own:])
    ]
    early = _needed(border) | forward
    return (
        _forward(joint, early, flat[:own], border),
        _relevance(joint, late, border, seeds, flat[own:]),
        [node.name for node in border],
    )


def _is_forward(node: fx.Node) -> bool:
    known = origin(node)
    return known is not None and known.phase == "forward"


def _needed(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    needed = set(nodes)
    stack = list(needed)
    while stack:
        fresh = [source for source in stack.pop().all_input_nodes if source not in needed]
        needed.update(fresh)
        stack.extend(fresh)
    return needed


def _is_read(node: fx.Node, late: set[fx.Node]) -> bool:
    return any(user in late for user in node.users)


class _Part:
    """One of the two graphs, while it is made of copies of the joint graph's nodes."""

    def __init__(self, joint: fx.GraphModule) -> None:
        self.joint = joint
        self.graph, self.root = fx.Graph(), torch.nn.Module()
        self.copies: dict[fx.Node, fx.Node] = {}

    def copy(self, node: fx.Node) -> None:
        """The node, whose operands are there already."""
        if node.op == "get_attr":
            name = str(node.target)
            if not hasattr(self.root, name):
                self.root.register_buffer(name, attribute(self.joint, name))
        self.copies[node] = copy_node(self.graph, node, self.copies)

    def returning(self, values: Iterable[Argument]) -> fx.GraphModule:
        """The finished graph.

        What is returned twice, or as it came in, gets a copy: a file cannot give one value two names.
        """
        seen: set[fx.Node] = set()
        named = []
        for value in values:
            if isinstance(value, fx.Node):
                if value in seen or value.op == "placeholder":
                    meta = value.meta
                    value = self.graph.call_function(aten.clone.default, (value,))
                    value.meta["val"] = meta["val"]
                seen.add(value)
            named.append(value)
        self.graph.output(tuple(named))
        module = fx.GraphModule(self.root, self.graph)
        module.graph.lint()
        return module


def _forward(joint: fx.GraphModule, early: set[fx.Node], own: list[Argument], border: list[fx.Node]) -> fx.GraphModule:
    part = _Part(joint)
    for node in joint.graph.nodes:
        if node in early:
            part.copy(node)
    return part.returning(part.copies[item] if isinstance(item, fx.Node) else item for item in [*own, *border])


def _relevance(
    joint: fx.GraphModule, late: set[fx.Node], border: list[fx.Node], seeds: list[fx.Node], relevances: list[fx.Node]
) -> fx.GraphModule:
    part = _Part(joint)
    sizes = Sizes(part.graph)
    for node in [*border, *seeds]:
        part.copies[node] = add_placeholder(part.graph, node.name)
        part.copies[node].meta.update(node.meta)
        sizes.add_dims(part.copies[node])
    # Besides what is late: weights, and sizes that cannot be read off what is handed over.
    needed = {*late, *(item for item in relevances if item not in part.copies)}
    stack = list(needed)
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in needed and source not in part.copies and source.meta.get("val") not in sizes:
                needed.add(source)
                stack.append(source)
    for node in joint.graph.nodes:
        if node not in needed or node in part.copies:
            continue
        for source in node.all_input_nodes:
            if source not in part.copies:
                part.copies[source] = sizes.read(source.meta["val"])
        part.copy(node)
    return part.returning(part.copies[item] for item in relevances)
