"""What the analysis passes decide about a node, and the view of it that its rule gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from lrp_compiler.rules import Op, bind

KEY = "lrp"
"""Where annotations live: `node.meta["lrp"]` holds the node's Assignment."""


@dataclass
class Assignment:
    """How relevance passes one node of the forward graph.

    Args:
        target: the op whose rule applies: the node's own, or `FUNCTION` for the end of an elementwise region.
        arguments: its arguments by schema name; nodes are the handles.
        active: operands that relevance flows to.
        nonnegative: operands that are ≥ 0 whatever the input.
        borders: of operands with zeros put around them, how many.
        wanted: constant operands whose own relevance is asked for (weights, biases).
        kind, rule, options: the decision of the composite, once `assign_rules` has run.
    """

    target: Any
    arguments: Mapping[str, Any]
    active: tuple[str, ...]
    nonnegative: tuple[str, ...] = ()
    borders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    kind: str = ""
    rule: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: fx.Node, active: tuple[str, ...]) -> Assignment:
        """The node taken by itself."""
        return cls(node.target, bind(node.target, node.args, node.kwargs), active)

    def op(
        self,
        node: fx.Node,
        fetch: Callable[[Any], Tensor] = lambda handle: handle.meta["val"],
        absorb: Callable[[str, Tensor], None] | None = None,
        asked: Callable[[Any], None] | None = None,
        wanted: tuple[str, ...] = (),
    ) -> Op:
        """The rule's view of the node; by default it sees the symbolic values of the capture."""
        return Op(
            self.target,
            self.arguments,
            node,
            fetch=fetch,
            active=self.active,
            nonnegative=self.nonnegative,
            borders=self.borders,
            **({"wanted": wanted} if wanted else {}),
            absorb=absorb,
            asked=asked,
        )


def assignment(node: fx.Node) -> Assignment | None:
    """The node's assignment; `None` for a node that no relevance reaches."""
    return node.meta.get(KEY)
