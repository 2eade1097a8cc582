"""Graph → graph, one pass a file, by phase; `pipeline.py` writes out their order."""

from .options import ObservedForm, Options
from .pipeline import (
    Compiled,
    compile_graphs,
    explainable_inputs,
    forward_graph,
    joint_graph,
    with_forms,
)
from .stages import StageError
from .watch import Watch

__all__ = [
    "Compiled",
    "ObservedForm",
    "Options",
    "StageError",
    "Watch",
    "compile_graphs",
    "explainable_inputs",
    "forward_graph",
    "joint_graph",
    "with_forms",
]
