"""The books of one step of a loop: its operations pass relevance to one another, to the step before, to the operands.

What comes to a state goes to what the step before made of it; at the first step to what the loop starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from lrp_compiler.passes.graph import Scan, outputs
from lrp_compiler.rules import Op, Relevance, times, total

from .walk import Fetch, Listeners


@dataclass(frozen=True)
class StepBooks:
    """Tells who listens to a loop of what happens in one of its steps.

    Args:
        loop: the loop.
        op: one of its results.
        told: who listens.
        handles: node of the body → the handle under which its values are handed out.
        time: which step it is, from the first one on.
        fetch: node of the body → its value in this step.
    """

    loop: Scan
    op: Op
    told: Listeners
    handles: Mapping[fx.Node, fx.Node]
    time: int
    fetch: Fetch

    def begin(self, number: int, share: Relevance) -> None:
        """What comes to a result of the loop is relevance of what makes it in this step."""
        self._hand_on(self.op.results[number], outputs(self.loop.body)[number], share)

    def absorb(self, node: fx.Node, cause: str, share: Tensor) -> None:
        """What leaves the flow at an operation."""
        assert self.told.absorb is not None
        self.told.absorb(self.handles[node], cause, share)

    def pass_on(self, node: fx.Node, operand: fx.Node, share: Relevance) -> None:
        """What an operation hands to one of its operands."""
        self._hand_on(self.handles[node], operand, share)

    def _hand_on(self, giver: fx.Node, operand: fx.Node, share: Relevance) -> None:
        told = self.told
        assert told.absorb is not None
        R = share.total_of(lambda: self.fetch(operand), times)
        taker = self._taker(operand)
        if taker is None:
            told.absorb(giver, "constant", R)
        elif told.pass_on is not None:
            told.pass_on(giver, taker, total(R))

    def _taker(self, node: fx.Node) -> fx.Node | None:
        """The handle of what gets it; None: a first state that is a constant."""
        states, ends = self.loop.placeholders[: self.loop.states], outputs(self.loop.body)
        for _ in range(self.time):
            if node not in states:
                break
            node = ends[states.index(node)]
        if node in self.loop.placeholders:
            name = node.meta["input"]
            operand: fx.Node = self.op.arguments[name]
            return operand if name in self.op.active else None
        return self.handles[node]
