"""Graph → graph, one pass a file; `pipeline.py` writes out their order."""

from lrp_compiler.passes.forward.target import Target
from lrp_compiler.passes.relevance.seed import Seed

from .pipeline import Compiled, Dump, compile_graphs, joint_graph

__all__ = ["Compiled", "Dump", "Seed", "Target", "compile_graphs", "joint_graph"]
