"""Arrays that a command takes from files, and puts into one. Imported by what runs: numpy takes long."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.run import to_numpy
from lrp_compiler.base.specs import ABSORBED, AGGREGATE, SUM

from .paths import must_exist

OPTIONS = ("check_nan", "batch_size", "progress", "precision", "title", "dagre", "path")
"""What explainers take by name besides their inputs."""
NUMBERS = "biufc"
"""Kinds of numpy's dtypes."""


def load_inputs(entries: Sequence[str]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Arrays by position and by name, from `x.npy` and `name=x.npy`."""
    args: list[np.ndarray] = []
    kwargs: dict[str, Any] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or Path(entry).exists():
            args.append(load_array(entry))
        elif name in OPTIONS:
            raise InputError(f"An input cannot be called {name!r} here: give it by position, --input FILE.npy.")
        elif name in kwargs:
            raise InputError(f"Input {name!r} is given twice.")
        else:
            kwargs[name] = load_array(path)
    return args, kwargs


def load_latents(arguments: argparse.Namespace) -> dict[str, dict[str, np.ndarray]]:
    """Masks and seeds by path, from `path=x.npy`."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for option in ("masks", "seeds"):
        for entry in getattr(arguments, option):
            path, equals, file = entry.rpartition("=")
            if not equals:
                raise InputError(f"--{option} takes PATH=FILE.npy, and {entry} is not that.")
            found.setdefault(option, {})[path] = load_array(file)
    return found


def load_references(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a call takes as `reference`, if one was said: of all inputs, or by input."""
    found = {name: load_array(value) if str(value).endswith(".npy") else value for name, value in arguments.reference}
    if len(found) < len(arguments.reference) or ("" in found and len(found) > 1):
        raise InputError("--reference is given once, or once for each input as INPUT=….")
    return {"reference": found.get("", found)} if found else {}


def load_array(path: str) -> np.ndarray:
    """Numbers from a file of their own."""
    must_exist(Path(path))
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder.")
    wrong = InputError(f"{path} is not a file that numpy.save wrote from numbers.")
    try:
        # Mapped, so that a header cannot claim more than the file holds.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray) and array.dtype.kind in NUMBERS:
            return np.array(array, dtype=array.dtype.newbyteorder("="))
    except OSError:
        raise
    except Exception as error:
        raise wrong from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays; give each one as its own .npy file.")
    if array.dtype.kind == "V" and array.dtype.names is None:
        raise InputError(f"{path} holds a dtype that numpy does not know (bfloat16, say): save it as float32.")
    raise wrong


def tensors_of(explainer: Any, args: list[np.ndarray], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arrays as tensors, by position and by name."""
    from lrp_compiler.artefact import of_array

    takes = {spec.name: spec.dtype for spec in explainer.about.takes}
    own = [spec.dtype for spec in explainer.about.inputs]
    tensors = [of_array(array, dtype) for array, dtype in zip(args, own + [""] * len(args), strict=False)]
    return tensors, {
        name: of_array(value, takes.get(name, "")) if isinstance(value, np.ndarray) else value
        for name, value in kwargs.items()
    }


def arrays_of(explanation: Any) -> dict[str, np.ndarray]:
    """All that a run returned, by dotted names."""
    found = _named("output", explanation.output) | _named("relevance", explanation.relevance)
    found |= _named("coefficient", explanation.coefficients) | _named(AGGREGATE, explanation.aggregate)
    return found | {
        name if name == ABSORBED else f"{SUM}.{name}": to_numpy(value) for name, value in explanation.sums.items()
    }


def _named(prefix: str, value: Any) -> dict[str, np.ndarray]:
    """Flatten arrays and tensors in dicts and sequences to dotted names."""
    if isinstance(value, dict):
        return {name: array for key, part in value.items() for name, array in _named(f"{prefix}.{key}", part).items()}
    if isinstance(value, list | tuple):
        return _named(prefix, dict(enumerate(value)))
    return {prefix: to_numpy(value)}


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a `.npz`, whatever its name ends in; savez itself appends the ending to a name."""
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def described(name: str, array: np.ndarray) -> dict[str, Any]:
    """What there is to say of an array; JSON has no NaN."""
    entry: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    if name.startswith("relevance."):
        total = float(array.sum(dtype=np.float64))
        entry["sum"] = total if math.isfinite(total) else None
    return entry
