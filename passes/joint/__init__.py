"""Both graphs in one: spliced, taken apart, made a program of, moved, stored."""

from .join import constants_first, copy_repeated, join
from .lift import lift
from .lower_own_ops import lower_own_ops
from .move import move
from .persist import UnknownOperator, forward_from_dict, forward_to_dict, joint_from_dict, joint_to_dict
from .reduce import reduce, row_sums
from .split import split

__all__ = [
    "UnknownOperator",
    "constants_first",
    "copy_repeated",
    "forward_from_dict",
    "forward_to_dict",
    "join",
    "joint_from_dict",
    "joint_to_dict",
    "lift",
    "lower_own_ops",
    "move",
    "reduce",
    "row_sums",
    "split",
]
