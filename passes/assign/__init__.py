"""Facts about every node of the forward graph, and the rule that it gets."""

from .analyse import analyse, analyse_rules
from .assign_rules import assign_rules, reachable, uncovered
from .borders import zero_padding
from .choose_composite import choose_composite
from .decisions import Decision, decisions
from .into_loops import move_into_loops
from .loops import CARRIED, RESULT
from .wanted_values import named_values, wanted_values, with_observed

__all__ = [
    "CARRIED",
    "RESULT",
    "Decision",
    "analyse",
    "analyse_rules",
    "assign_rules",
    "choose_composite",
    "decisions",
    "move_into_loops",
    "named_values",
    "reachable",
    "uncovered",
    "wanted_values",
    "with_observed",
    "zero_padding",
]
