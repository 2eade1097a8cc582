"""Models in: a module, a program or a file becomes one exported program."""

from .capture import Model, capture, load_model, load_program
from .kinds import refuse_other_files
from .safe_load import check_structure, load_exported, load_weights, refusing
from .same_output import check_same_output, run_model, same
from .size_one import other_at_one

__all__ = [
    "Model",
    "capture",
    "check_same_output",
    "check_structure",
    "load_exported",
    "load_model",
    "load_program",
    "load_weights",
    "other_at_one",
    "refuse_other_files",
    "refusing",
    "run_model",
    "same",
]
