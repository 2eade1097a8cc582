"""What is decided about a node of the forward graph, and the view of it that its rule gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import fx

from lrp_compiler.rules import Arguments, Fact, Facts, Op, Values, bind

KEY = "lrp"
"""Where it lives: `node.meta["lrp"]` holds the node's Assignment."""
CAPTURED = Values(lambda handle: handle.meta["val"])
"""The symbolic values of the capture."""
T = TypeVar("T")


@dataclass
class Assignment:
    """How relevance passes one node of the forward graph.

    Args:
        target: the op whose rule applies: the node's own, or `FUNCTION` for the end of an elementwise region.
        arguments: its arguments by schema name; nodes are the handles.
        active: operands that relevance flows to.
        wanted: constant operands whose own relevance is asked for (weights, biases).
        facts: what the analyses found out.
        kind, rule, options: the decision of the composite, once `assign_rules` has run.
    """

    target: Any
    arguments: Arguments
    active: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    facts: Facts = field(default_factory=Facts)
    kind: str = ""
    rule: str = ""
    options: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, node: fx.Node, active: tuple[str, ...]) -> Assignment:
        """The node taken by itself."""
        return cls(node.target, bind(node.target, node.args, node.kwargs), active)

    def know(self, fact: Fact[T], value: T) -> None:
        """Write down what an analysis found."""
        self.facts = self.facts.known(fact, value)

    def operand(self, name: str) -> fx.Node:
        """The node that an active operand is."""
        node = self.arguments[name]
        assert isinstance(node, fx.Node)
        return node

    def op(self, node: fx.Node, values: Values = CAPTURED, wanted: tuple[str, ...] = ()) -> Op:
        """The rule's view of the node."""
        return Op(self.target, self.arguments, node, values, active=self.active, facts=self.facts, wanted=wanted)


def assign(node: fx.Node, given: Assignment | None) -> None:
    """Write down how relevance passes the node; `None`: it does not."""
    if given is None:
        node.meta.pop(KEY, None)
    else:
        node.meta[KEY] = given


def assignment(node: fx.Node) -> Assignment | None:
    """The node's assignment; `None` for a node that no relevance reaches."""
    given = node.meta.get(KEY)
    assert given is None or isinstance(given, Assignment)
    return given
