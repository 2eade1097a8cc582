"""The mathematics of LRP: one family of rules a file, each rule next to its formula; what each op is in `operators/`.

Read `relevance.py` (the two forms), `op.py` (what a rule sees), `registry.py` (how rules and operators meet), then any
family. Nothing here knows about graphs: every rule runs on real tensors as it stands (`Op.eager`).
"""

from . import (
    differences,
    elementwise,
    embedding,
    first_layer,
    linear_map,
    magnitude,
    matmul,
    near_ties,
    operators,
    product,
    selection,
    signed,
    softmax,
)
from .conditions import Condition
from .differences import NAME as DIFFERENCE
from .facts import FACTS, Fact, Facts
from .first_layer import STEP, Bound
from .matmul import READOUT
from .op import BORDERS, NONNEGATIVE, PASSED_OVER, Op, Values, bind, per_dim
from .operators.convolution import CHANNEL_FIRST, CONVOLUTIONS, TRANSPOSED, TRANSPOSES
from .operators.functions import SLOPE
from .operators.gate import RECURRENT_GATE
from .operators.interpolation import RESIZE
from .operators.layers import IN_STEPS, LAYERS, SUMS, step_of
from .operators.pooling import POOL
from .operators.remainder import REMAINDER
from .operators.scan import INSIDE, SCAN
from .operators.whole_module import EXPLAINED_BY, MODULE
from .product import GATE
from .registry import (
    CONDUCT,
    FUNCTION,
    NOTHING,
    OPERATORS,
    QUANTISED,
    RULES,
    USERS,
    Flow,
    Operator,
    RuleError,
    by_element,
    conduct,
    find,
    of_family,
    options_of,
    propagate,
    rule,
    rules_of,
)
from .relevance import TOTAL_STABILISER, Form, Relevance, difference, divide, has_shape, times, total, unit
from .signed import ONLY_POSITIVE
from .traits import TRAITS, Arguments, Call, Traits, declare, summands, traits

__all__ = [
    "BORDERS",
    "CHANNEL_FIRST",
    "CONDUCT",
    "CONVOLUTIONS",
    "DIFFERENCE",
    "EXPLAINED_BY",
    "FACTS",
    "FUNCTION",
    "GATE",
    "INSIDE",
    "IN_STEPS",
    "LAYERS",
    "MODULE",
    "NONNEGATIVE",
    "NOTHING",
    "ONLY_POSITIVE",
    "OPERATORS",
    "PASSED_OVER",
    "POOL",
    "QUANTISED",
    "READOUT",
    "RECURRENT_GATE",
    "REMAINDER",
    "RESIZE",
    "RULES",
    "SCAN",
    "SLOPE",
    "STEP",
    "SUMS",
    "TOTAL_STABILISER",
    "TRAITS",
    "TRANSPOSED",
    "TRANSPOSES",
    "USERS",
    "Arguments",
    "Bound",
    "Call",
    "Condition",
    "Fact",
    "Facts",
    "Flow",
    "Form",
    "Op",
    "Operator",
    "Relevance",
    "RuleError",
    "Traits",
    "Values",
    "bind",
    "by_element",
    "conduct",
    "declare",
    "difference",
    "differences",
    "divide",
    "elementwise",
    "embedding",
    "find",
    "first_layer",
    "has_shape",
    "linear_map",
    "magnitude",
    "matmul",
    "near_ties",
    "of_family",
    "operators",
    "options_of",
    "per_dim",
    "product",
    "propagate",
    "rule",
    "rules_of",
    "selection",
    "signed",
    "softmax",
    "step_of",
    "summands",
    "times",
    "total",
    "traits",
    "unit",
]
