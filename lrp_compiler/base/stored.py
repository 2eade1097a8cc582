"""An explanation as a file: every array under the name that the explainer's own file gives it. Torch-free.

    with np.load("explanation.npz") as arrays:
        arrays["x"], arrays["output"], arrays["relevance.x"]      # no more is needed to read one

Inputs and outputs of a graph have names of their own, so none meets another. What the explainer says about itself
stands beside them as JSON, and captions and pictures are what they were.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import FormatError
from .files import atomic_path
from .metadata import METADATA_KEY, Metadata
from .metadata_reading import read_metadata
from .results import Results
from .run import Run, to_numpy
from .specs import RelevanceSpec

CONDITIONS = "conditions"
"""What the JSON says besides the metadata: how many conditions of a call are in front, or None."""


def arrays_of(results: Results[Any]) -> dict[str, np.ndarray]:
    """Inputs, choices at run time, outputs and relevance, by the names of the explainer's file."""
    run = results.run
    given = {**run.inputs, **run.choices, **run.outputs}
    given |= {entry.tensor.name: _held(results, entry) for entry in run.about.relevance}
    return {name: to_numpy(value) for name, value in given.items()}


def fields_of(arrays: Mapping[str, np.ndarray], about: Metadata, conditions: int | None) -> dict[str, Any]:
    """The inverse: what `Results` takes.

    Raises:
        FormatError: one of the arrays is not there.
    """
    try:
        inputs, outputs = ({spec.name: arrays[spec.name] for spec in specs} for specs in (about.inputs, about.outputs))
        choices = {spec.name: arrays[spec.name] for spec in about.seed_inputs if spec.name in arrays}
        found = about.by_form(arrays[entry.tensor.name] for entry in about.relevance)
    except KeyError as absent:
        raise FormatError(f"The explanation is damaged: it has no {absent}.") from absent
    run = Run(about, inputs, outputs, choices, conditions)
    return {"output": next(iter(outputs.values())) if len(outputs) == 1 else outputs, "run": run, **found}


def note(results: Results[Any]) -> str:
    """What stands beside the arrays: the metadata without the plan, and the number of conditions, as JSON."""
    said = replace(results.run.about, plan=None).to_dict()
    return json.dumps({**said, CONDITIONS: results.run.conditions}, sort_keys=True)


def read_note(text: str, label: str) -> tuple[Metadata, int | None]:
    """Read what `note` wrote.

    Raises:
        FormatError: it is nothing of the kind, or of a newer schema.
    """
    about = read_metadata(text, label)
    conditions = json.loads(text).get(CONDITIONS)
    if conditions is not None and type(conditions) is not int:
        raise FormatError(f"The metadata of {label} is damaged: {CONDITIONS!r} is no number.")
    return about, conditions


def write(results: Results[Any], path: str | os.PathLike[str]) -> None:
    """Write it as `.npz`, whole or not at all; nothing is pickled."""
    arrays = {**arrays_of(results), METADATA_KEY: np.array(note(results))}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, array in arrays.items():  # np.savez takes names as arguments, and has some of its own
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write` wrote, as `Results` takes it.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no such file.
    """
    label = os.fspath(path)
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = dict(held)
        text = str(arrays.pop(METADATA_KEY))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever numpy and zipfile raise at what is not theirs
        raise FormatError(f"{label!r} holds no explanation, or is damaged.") from error
    return fields_of(arrays, *read_note(text, label))


def _held(results: Results[Any], entry: RelevanceSpec) -> Any:
    """What the explanation has of one of the relevances: `Metadata.by_form`, the other way round."""
    if entry.form == "unit":
        return results.coefficients[entry.input]
    if entry.form == "aggregate":
        return results.aggregate[entry.input]
    return results.relevance[entry.key] if entry.form == "total" else results.sums[entry.input]
