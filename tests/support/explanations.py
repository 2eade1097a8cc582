"""Explanations of runs that never were: for what is shown of them."""

from typing import Any

import numpy as np

from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.run import Run
from lrp_compiler.explanation import Explanation

LOGITS = np.array([[1.0, 5.0, 2.0], [7.0, 0.0, -3.0]])
LABELS = ["cat", "dog", "<b>fish</b>"]


def made(
    relevance: dict[str, Any],
    inputs: dict[str, Any] | None = None,
    logits: np.ndarray = LOGITS,
    choices: dict[str, Any] | None = None,
    **metadata: Any,
) -> Explanation[np.ndarray]:
    """An explanation of a run that never was."""
    inputs = dict(relevance) if inputs is None else inputs
    about = {
        "composite": {"name": "epsilon-plus"},
        "target": "argmax",
        "explains": {"classes": "argmax"},
        "explained": 0,
        "seed": "value",
        "classes": logits.shape[-1],
        "inputs": [{"name": name, "shape": [], "dtype": "float32"} for name in inputs],
        "outputs": [{"name": "y", "shape": ["batch", *logits.shape[1:]], "dtype": "float32"}],
        "relevance": [],
        "versions": {},
    }
    return Explanation(
        logits, relevance, Run(Metadata.from_dict(about | metadata), inputs, {"y": logits}, choices or {})
    )


def images(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 3, 6, 8)).astype(np.float32)
