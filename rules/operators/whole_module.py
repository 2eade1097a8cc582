"""A whole module as one operation, explained by a function of the user's own (see `Entry` in composite.py)."""

from __future__ import annotations

from lrp_compiler.rules.facts import Fact
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import USERS, RuleError, UserRule, operator

MODULE = "lrp::module"
"""Stands where an overload does for a module that a composite explains as a whole."""
EXPLAINED_BY: Fact[UserRule | None] = Fact("function", None, stored=False)
"""Of such a module: the function given in the composite."""


@operator(MODULE, kind="module", family=USERS, rule=USERS)
def module(op: Op) -> UserRule:
    """The function given in the composite.

    Raises:
        RuleError: the explainer comes from a file, and functions don't travel in files.
    """
    function = op.fact(EXPLAINED_BY)
    if function is None:
        raise RuleError("A module explained by a Python function can't be audited after loading: compile it again")
    return function
