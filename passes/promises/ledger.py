"""The forward graph as the planner sees it: sizes, costs and sources of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from lrp_compiler.passes.graph import arguments, is_tensor
from lrp_compiler.rules import traits
from lrp_compiler.torch_private import hint
from lrp_compiler.torch_private import op_name

from .planner import Value

TRANSCENDENTAL = 8.0
"""Elementary operations for one element of a softmax, a normalisation or a pool."""


@dataclass
class Ledger:
    """The forward graph as the planner sees it.

    Args:
        nodes: its tensor and size nodes in order; a value's index is its place here.
        values: what the planner is told of each.
        index: node → index.
    """

    nodes: list[fx.Node]
    values: list[Value]
    index: dict[fx.Node, int] = field(default_factory=dict)

    @classmethod
    def of(cls, forward: fx.GraphModule) -> Ledger:
        """The ledger of a forward graph."""
        ledger = cls([], [])
        for node in forward.graph.nodes:
            if node.op == "output":
                continue
            sources = tuple(dict.fromkeys(ledger.index[source] for source in node.all_input_nodes))
            ledger.index[node] = len(ledger.nodes)
            ledger.nodes.append(node)
            ledger.values.append(_value(node, sources, ledger.values))
        return ledger


def _value(node: fx.Node, sources: tuple[int, ...], known: Sequence[Value]) -> Value:
    if node.op != "call_function":
        return Value(0, given=True)
    if not is_tensor(node):
        # Sizes, and the tuples that some ops return: no bytes of their own.
        return Value(0, 0.0, sources, free=True)
    constant = all(known[source].given for source in sources) and not _reaches_input(node)
    tags = getattr(node.target, "tags", ())
    return Value(
        0 if constant else nbytes(node),
        cost(node),
        sources,
        given=constant,
        free=traits(node.target).free,
        cheap=torch.Tag.pointwise in tags,
    )


def _reaches_input(node: fx.Node) -> bool:
    return any(source.op == "placeholder" or not is_tensor(source) for source in node.all_input_nodes)


def nbytes(node: fx.Node) -> int:
    """Bytes of the node's value, at the example's sizes."""
    value = node.meta["val"]
    return _numel(value) * int(value.element_size())


def cost(node: fx.Node) -> float:
    """Elementary operations that the node takes, at the example's sizes."""
    value = node.meta["val"]
    size = float(_numel(value))
    if traits(node.target).free:
        return 0.0
    name = op_name(node.target) or ""
    args = arguments(node)
    if name.startswith("conv") and is_tensor(args[1]):
        weight = args[1].meta["val"]
        return 2 * size * _numel(weight) / max(hint(weight.shape[0]), 1)
    if name in ("linear", "matmul", "mm", "bmm"):
        return 2 * size * hint(args[0].meta["val"].shape[-1])
    if name == "addmm":
        return 2 * size * hint(args[1].meta["val"].shape[-1])
    tags = getattr(node.target, "tags", ())
    return size if torch.Tag.pointwise in tags else TRANSCENDENTAL * size


def _numel(value: torch.Tensor) -> int:
    count = 1
    for size in value.shape:
        count *= hint(size)
    return count
