"""Concepts: which channels, heads and features made it say so, where, and what else makes them speak. Torch-free.

    explainer = lrp.compile(model, (x,), target="index", masks="features.28", observe="features.28")
    concepts.conditional(explainer, x, [{"features.28": [50], "y": 1}, {"features.28": [3, 7], "y": 1}])
    concepts.channels(explainer, x, "features.28", target=1)
    found = concepts.references(explainer, batches, "features.28", k=8)
    concepts.atlas(explainer, x, found, samples, target=1).save("atlas.png")
    concepts.graph(explainer, x, ["features.12", "features.28"]).save("circuit.json")

Source: Achtibat et al., "From attribution maps to human-understandable explanations through Concept Relevance
Propagation", Nature Machine Intelligence 5 (2023), arXiv 2206.03208.
"""

from .circuit import Edge, Graph, Node
from .conditions import conditional
from .drawing import atlas
from .edges import graph
from .samples import By, References, references
from .shares import channels

__all__ = ["By", "Edge", "Graph", "Node", "References", "atlas", "channels", "conditional", "graph", "references"]
