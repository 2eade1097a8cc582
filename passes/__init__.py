"""Graph → graph, one pass a file; `pipeline.py` writes out their order."""

from .pipeline import Compiled, Dump, compile_graphs, joint_graph
from .seed_relevance import Seed
from .target import Target

__all__ = ["Compiled", "Dump", "Seed", "Target", "compile_graphs", "joint_graph"]
