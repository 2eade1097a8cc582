"""The mathematics of LRP: one operator family a file, each rule next to its formula.

Read `relevance.py` (the two forms), `op.py` (what a rule sees), `registry.py` (how rules and operators meet), then any
family. Nothing here knows about graphs: every rule runs on real tensors as it stands (`Op.eager`).
"""

from . import (
    contributions,
    elementwise,
    embedding,
    first_layer,
    linear_map,
    magnitude,
    product,
    selection,
    signed,
    softmax,
    whole_module,
)
from .op import Op, bind
from .operators import (
    arithmetic,
    convolution,
    extremes,
    gate,
    interpolation,
    linear,
    masking,
    normalization,
    pooling,
    scatter,
)
from .registry import OPERATORS, RULES, Flow, Operator, RuleError, find, propagate, rule, rules_of
from .relevance import Relevance, total, unit

__all__ = [
    "OPERATORS",
    "RULES",
    "Flow",
    "Op",
    "Operator",
    "Relevance",
    "RuleError",
    "arithmetic",
    "bind",
    "contributions",
    "convolution",
    "elementwise",
    "embedding",
    "extremes",
    "find",
    "first_layer",
    "gate",
    "interpolation",
    "linear",
    "linear_map",
    "magnitude",
    "masking",
    "normalization",
    "pooling",
    "product",
    "propagate",
    "rule",
    "rules_of",
    "scatter",
    "selection",
    "signed",
    "softmax",
    "total",
    "unit",
    "whole_module",
]
