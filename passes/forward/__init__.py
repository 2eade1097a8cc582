"""From a captured program to the forward graph, and to the value in it that is explained."""

from .answer import Answer, Explained, explained_in, select_answer
from .block_attention import block_attention
from .captured import Captured, Example, Other
from .dense_layers import recognise_dense_layers
from .dictionaries import Dictionary, splice_dictionaries
from .fold_batch_norm import fold_batch_norm
from .known_functions import recognise_functions
from .layer_norms import recognise_layer_norms
from .randomness import refuse_randomness
from .reference import beside_reference
from .rows import Grid, operands_of, sized
from .select_explained import (
    EXPLAINED,
    KIND,
    MASK,
    OUTPUT,
    POSITION,
    explained_value,
    select_by_function,
    select_explained,
)
from .split_bias import split_bias
from .step_reads import read_step_by_step
from .target import Pick, Step, Target
from .unlift import unlift

__all__ = [
    "EXPLAINED",
    "KIND",
    "MASK",
    "OUTPUT",
    "POSITION",
    "Answer",
    "Captured",
    "Dictionary",
    "Example",
    "Explained",
    "Grid",
    "Other",
    "Pick",
    "Step",
    "Target",
    "beside_reference",
    "block_attention",
    "explained_in",
    "explained_value",
    "fold_batch_norm",
    "operands_of",
    "read_step_by_step",
    "recognise_dense_layers",
    "recognise_functions",
    "recognise_layer_norms",
    "refuse_randomness",
    "select_answer",
    "select_by_function",
    "select_explained",
    "sized",
    "splice_dictionaries",
    "split_bias",
    "unlift",
]
