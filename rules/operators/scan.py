"""A loop over time as one operation: what its steps are, the rules say themselves, inside."""

from __future__ import annotations

from lrp_compiler.rules.facts import Fact
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import Flow, RuleError, UserRule, family_rule, operator
from lrp_compiler.rules.relevance import Relevance

SCAN = "lrp::scan"
"""Stands where an overload does for one result of a loop."""
INSIDE: Fact[UserRule | None] = Fact("inside", None, stored=False)
"""Of such a result: takes its relevance back through the steps."""


@operator(SCAN, kind="scan", family="scan", rule="steps")
def scan(op: Op) -> UserRule:
    """How relevance goes back through the steps."""
    function = op.fact(INSIDE)
    assert function is not None
    return function


@family_rule("scan", "steps", alike=False)
def steps(op: Op, through: UserRule, relevance: Relevance) -> Flow:
    """From the last step to the first, each by the rules of its own operations.

    Raises:
        RuleError: relevance is of differences from a reference.
    """
    if op.differs:
        raise RuleError("A loop (torch's scan, a recurrent layer of open length) has no rule for differences yet")
    flow: Flow = through(op, relevance)  # type: ignore[assignment]
    return flow
