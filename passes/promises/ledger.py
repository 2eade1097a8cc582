"""The forward graph as the planner sees it: sizes, costs and sources of its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import fx

from lrp_compiler.passes.graph import is_tensor
from lrp_compiler.rules import bind, by_element, traits
from lrp_compiler.torch_private import hint

from .planner import Value

At = Mapping[object, int]
"""Symbol of an open size → the number that is reckoned with."""
TRANSCENDENTAL = 8.0
"""Elementary operations for one element of a softmax, a normalisation or a pool."""


@dataclass
class Ledger:
    """The forward graph as the planner sees it.

    Args:
        nodes: its tensor and size nodes in order; a value's index is its place here.
        values: what the planner is told of each.
        index: node → index.
        at: symbol → the size that is reckoned with in place of the example's.
    """

    nodes: list[fx.Node]
    values: list[Value]
    index: dict[fx.Node, int] = field(default_factory=dict)
    at: At = field(default_factory=dict)

    @classmethod
    def of(cls, forward: fx.GraphModule, at: At | None = None) -> Ledger:
        """The ledger of a forward graph."""
        ledger = cls([], [], at=at or {})
        for node in forward.graph.nodes:
            if node.op == "output":
                continue
            sources = tuple(dict.fromkeys(ledger.index[source] for source in node.all_input_nodes))
            ledger.index[node] = len(ledger.nodes)
            ledger.nodes.append(node)
            ledger.values.append(_value(node, sources, ledger))
        return ledger


def _value(node: fx.Node, sources: tuple[int, ...], ledger: Ledger) -> Value:
    if node.op != "call_function":
        return Value(0, given=True)
    if not is_tensor(node):
        # Sizes, and the tuples that some ops return: no bytes of their own.
        return Value(0, 0.0, sources, free=True)
    constant = all(ledger.values[source].given for source in sources) and not _reaches_input(node)
    free = traits(node.target).free
    return Value(
        0 if constant else nbytes(node, ledger.at),
        cost(node, ledger.at),
        sources,
        given=constant,
        free=free,
        cheap=by_element(node.target) and not free,
    )


def _reaches_input(node: fx.Node) -> bool:
    return any(source.op == "placeholder" or not is_tensor(source) for source in node.all_input_nodes)


def nbytes(node: fx.Node, at: At | None = None) -> int:
    """Bytes of the node's value, at the example's sizes or those given."""
    value = node.meta["val"]
    return prod(_sizes(value, at)) * int(value.element_size())


def cost(node: fx.Node, at: At | None = None) -> float:
    """Elementary operations that the node takes, at the example's sizes or those given."""
    value = node.meta["val"]
    size = float(prod(_sizes(value, at)))
    if traits(node.target).free:
        return 0.0
    if (products := traits(node.target).products) is not None:
        given = fx.map_arg(bind(node.target, node.args, node.kwargs), lambda one: _sizes(one.meta["val"], at))
        return 2.0 * products(given, _sizes(value, at))
    return size if by_element(node.target) else TRANSCENDENTAL * size


def _sizes(value: torch.Tensor, at: At | None) -> list[int]:
    return [hint(size, at) for size in value.shape]
