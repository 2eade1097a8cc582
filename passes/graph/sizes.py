"""Where a symbolic size of a graph can be read."""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.torch_private import expression

from .tools import is_tensor

aten = torch.ops.aten


class Sizes:
    """The symbolic sizes of a graph that is being built, by their expression.

    Args:
        graph: into which a reading is put where there is none yet.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._nodes: dict[object, fx.Node] = {}
        self._places: dict[object, tuple[fx.Node, int]] = {}

    def add(self, node: fx.Node) -> None:
        """A node of the graph that is a size."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            self._nodes.setdefault(expression(value), node)

    def add_dims(self, node: fx.Node) -> None:
        """A tensor of the graph whose dims may be read."""
        for dim, size in enumerate(node.meta["val"].shape if is_tensor(node) else ()):
            if isinstance(size, torch.SymInt):
                self._places.setdefault(expression(size), (node, dim))

    def __contains__(self, value: object) -> bool:
        """Whether the value is a size that can be read."""
        if not isinstance(value, torch.SymInt):
            return False
        return expression(value) in self._nodes or expression(value) in self._places

    def node(self, value: object) -> fx.Node | None:
        """The node that is this size, if the graph has one."""
        return self._nodes.get(expression(value)) if isinstance(value, torch.SymInt) else None

    def read(self, value: torch.SymInt) -> fx.Node:
        """The node that is this size; if there is none yet, one is inserted that reads it off a tensor."""
        known_as = expression(value)
        if known_as not in self._nodes:
            source, dim = self._places[known_as]
            node = self._nodes[known_as] = self._graph.call_function(aten.sym_size.int, (source, dim))
            node.meta["val"] = value
        return self._nodes[known_as]


def size_readings(node: fx.Node) -> list[fx.Node]:
    """The users of a tensor that read one of its sizes, and nothing else."""
    return [user for user in node.users if user.target is aten.sym_size.int]
