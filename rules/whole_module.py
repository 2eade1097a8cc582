"""A whole module as one operation, explained by a function of the user's own (see `Entry` in composite.py)."""

from __future__ import annotations

from .op import Op
from .registry import RuleError, UserRule, operator

MODULE = "lrp::module"
"""Stands where an overload does for a module that a composite explains as a whole."""


@operator(MODULE, kind="module", family="user", rule="user")
def module(op: Op) -> UserRule:
    """The function given in the composite.

    Raises:
        RuleError: the explainer comes from a file, and functions don't travel in files.
    """
    function: UserRule | None = op.arguments.get("function")
    if function is None:
        raise RuleError("A module explained by a Python function can't be audited after loading: compile it again")
    return function
