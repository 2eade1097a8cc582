"""What an environment writes of a network: its ONNX file, and arrays that were worked out without this project.

Only the standard library and numpy, so that each framework's own Python runs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

RELEVANCE, INPUT, OUTPUT = "relevance:", "input:", "output"
"""How arrays are called in a case's file: of an input, by its name."""


def write(
    folder: Path,
    name: str,
    model: bytes,
    inputs: Mapping[str, np.ndarray],
    output: np.ndarray,
    relevance: Mapping[str, np.ndarray],
    *,
    what: str,
    oracle: str,
    tool: str,
    composite: str = "epsilon",
    target: int = 0,
    output_name: str | None = None,
    observed: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write one network.

    Args:
        folder: into which.
        name: of its files.
        model: the ONNX file.
        inputs: by the names of the file.
        output: what the framework makes of them: of the output that is explained.
        relevance: of each input for class `target`, as the framework's own arithmetic has it.
        what: the network, for the table.
        oracle: how that relevance was found.
        tool: what wrote the file, with versions.
        composite: under which rules.
        target: the class that is explained.
        output_name: of the output that is explained; None: the one that is chosen by itself.
        observed: relevance of values inside, by the pattern that finds them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(model)
    arrays = {f"{INPUT}{key}": array for key, array in inputs.items()}
    arrays |= {f"{RELEVANCE}{key}": array for key, array in {**relevance, **(observed or {})}.items()}
    np.savez(folder / f"{name}.npz", **arrays, **{OUTPUT: output})
    said = {
        "what": what,
        "oracle": oracle,
        "tool": tool,
        "composite": composite,
        "target": target,
        "output_name": output_name,
        "observe": list(observed or {}),
    }
    (folder / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n")


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """What was written beside an ONNX file: what is said, inputs, output, relevance."""
    said: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs = {name.removeprefix(INPUT): arrays[name] for name in arrays.files if name.startswith(INPUT)}
        found = {name.removeprefix(RELEVANCE): arrays[name] for name in arrays.files if name.startswith(RELEVANCE)}
        return said, inputs, arrays[OUTPUT], found
