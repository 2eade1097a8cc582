"""Rewrites that change the speed of an explainer and nothing else."""

from .concatenate_pieces import concatenate_pieces
from .gather_constants import gather_constants
from .look_up_rows import look_up_rows
from .lower_transposes import lower_transposes
from .merge_stabilisers import merge_stabilisers
from .route_windows import route_windows

__all__ = [
    "OF_JOINT",
    "concatenate_pieces",
    "gather_constants",
    "look_up_rows",
    "lower_transposes",
    "merge_stabilisers",
    "route_windows",
]

OF_JOINT = (lower_transposes, look_up_rows, concatenate_pieces, gather_constants, route_windows)
"""Of the joint graph, in order; a new rewrite is a file of its own and an entry here."""
