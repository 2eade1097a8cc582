"""Which forward values relevance needs, and how each of them is had."""

from .checkpoints import checkpoint_loops
from .ledger import Ledger
from .plan import Plan, Promise, make_plan
from .planner import Decision, Value, plan
from .resolve import asked_values, resolve_promises

__all__ = [
    "Decision",
    "Ledger",
    "Plan",
    "Promise",
    "Value",
    "asked_values",
    "checkpoint_loops",
    "make_plan",
    "plan",
    "resolve_promises",
]
