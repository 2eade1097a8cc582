"""Two captures of a program, at lengths that follow one another → one of any length.

Their steps become loops; then both are the same node for node, but for numbers: one that grows with the length by the
same amount is `a · length + b`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import attribute

from .roll import roll
from .steps import NotRepeated, calls, written_out
from .tidy import tidy

aten = torch.ops.aten


def of_any_length(shorter: fx.GraphModule, longer: fx.GraphModule, length: int, where: tuple[int, int]) -> None:
    """Make `shorter` a program of any length, in place; values of its nodes (`meta`) are not kept.

    Args:
        shorter: the program at a length, functional.
        longer: the same at the next one.
        length: of the shorter one.
        where: number of a placeholder and its dim that are so long.

    Raises:
        NotRepeated: the two are different in another way; the message says where.
    """
    for module in (shorter, longer):
        tidy(module)
    loops = written_out(list(calls(shorter.graph)), list(calls(longer.graph)))
    roll(shorter, [loop for loop, _ in loops])
    roll(longer, [loop for _, loop in loops])
    _Joined(shorter, longer, length).join(where)


class _Joined:
    def __init__(self, shorter: fx.GraphModule, longer: fx.GraphModule, length: int) -> None:
        self.shorter, self.longer, self._length = shorter, longer, length
        self._other: dict[fx.Node, fx.Node] = {}
        """Node of the shorter one → the same of the longer one."""
        self._numbers: dict[tuple[int, int], fx.Node] = {}

    def join(self, where: tuple[int, int]) -> None:
        graph = self.shorter.graph
        placeholders = graph.find_nodes(op="placeholder")
        with graph.inserting_after(placeholders[-1]):
            self._size = graph.call_function(aten.sym_size.int, (placeholders[where[0]], where[1]))
        self._after = self._size
        mine, others = [node for node in graph.nodes if node is not self._size], list(self.longer.graph.nodes)
        if len(mine) != len(others):
            raise NotRepeated("the programs of two lengths have other nodes, and not in steps")
        for node, other in zip(mine, others, strict=True):
            if (node.op, node.op == "get_attr" or node.target) != (other.op, other.op == "get_attr" or other.target):
                raise NotRepeated(f"{node.name} is {other.target} at another length")
            if node.op == "get_attr":
                self._same_attribute(node, other)
            self._other[node] = other
            if node.op != "placeholder":
                node.args = self._merged(node, node.args, other.args)
                node.kwargs = self._merged(node, node.kwargs, other.kwargs)
        graph.lint()
        self.shorter.recompile()

    def _same_attribute(self, node: fx.Node, other: fx.Node) -> None:
        a, b = attribute(self.shorter, str(node.target)), attribute(self.longer, str(other.target))
        if isinstance(a, fx.GraphModule) and isinstance(b, fx.GraphModule):
            _Joined(a, b, self._length).check_same()
        elif not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and _equal(a, b)):
            raise NotRepeated(f"the constant {node.target} is another one at another length")

    def check_same(self) -> None:
        """Refuse two steps that are not the same, numbers included."""
        mine, others = list(self.shorter.graph.nodes), list(self.longer.graph.nodes)
        self._other = dict(zip(mine, others, strict=False))
        for node, other in self._other.items():
            same = node.target == other.target or node.op == "placeholder"
            if len(mine) != len(others) or not (
                same and self.alike(node.args, other.args) and self.alike(node.kwargs, other.kwargs)
            ):
                raise NotRepeated(f"a step's {node.name} is another one at another length")

    def alike(self, one: object, other: Any) -> bool:
        """Whether two arguments are the same, numbers included."""
        if isinstance(one, fx.Node):
            return self._other.get(one) is other
        if isinstance(one, list | tuple):
            return isinstance(other, list | tuple) and len(one) == len(other) and all(map(self.alike, one, other))
        if isinstance(one, Mapping):
            return one.keys() == other.keys() and all(self.alike(one[key], other[key]) for key in one)
        return type(one) is type(other) and bool(one == other)

    def _merged(self, node: fx.Node, one: object, other: object) -> Any:
        """An argument that holds at every length."""
        if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
            return type(one)(self._merged(node, a, b) for a, b in zip(one, other, strict=True))
        if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
            return {key: self._merged(node, one[key], other[key]) for key in one}
        if self.alike(one, other):
            return one
        if type(one) is int and type(other) is int:
            return self._number(other - one, one - (other - one) * self._length)
        raise NotRepeated(f"{node.name} takes {one} at one length and {other} at another")

    def _number(self, slope: int, offset: int) -> fx.Node:
        """`slope · length + offset`."""
        if (slope, offset) not in self._numbers:
            found = self._size
            for target, by, neutral in ((operator.mul, slope, 1), (operator.add, offset, 0)):
                if by != neutral:
                    with self.shorter.graph.inserting_after(self._after):
                        found = self._after = self.shorter.graph.call_function(target, (found, by))
            self._numbers[slope, offset] = found
        return self._numbers[slope, offset]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
