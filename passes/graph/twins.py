"""Values twice in a forward graph: for the inputs, and for the reference that they are compared with."""

from __future__ import annotations

from torch import fx

TWIN = "twin"
"""`node.meta` key: the name of the node that holds the same value at the reference. Without it that is the node."""


def twins_of(forward: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Node → the same value at the reference, of those that differ there; nothing where relevance is of values."""
    nodes = {node.name: node for node in forward.graph.nodes}
    return {node: nodes[node.meta[TWIN]] for node in nodes.values() if TWIN in node.meta}
