"""Files by the ending of their name: who reads a model, who writes an explainer. Torch-free until something is read.

A new format is a file with such a function, and an entry here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lrp_compiler.base.errors import InputError

Runtime = Literal["torch", "onnxruntime"]

ONNX, PT2, AOTI = ".onnx", ".pt2", ".aoti.pt2"
"""Endings of models and of explainers."""
EXPLAINER = ".lrp"
"""What stands in front of the ending of an explainer's name."""
NPZ, PARQUET = ".npz", ".parquet"
EXPLANATIONS = (NPZ, PARQUET)
"""Endings of explanations that are kept."""


@dataclass(frozen=True)
class Output:
    """A format of explainers.

    Args:
        write: `module:function` that writes one: `(artefact, path, **options)`.
        options: names of the options that it takes.
        runtime: what runs such a file.
        about: what the command line says of it besides.
    """

    write: str
    options: tuple[str, ...] = ()
    runtime: Runtime = "torch"
    about: str = ""


OUTPUTS: dict[str, Output] = {
    ONNX: Output("lrp_compiler.export.onnx:write_explainer", ("opset", "dtype", "profile"), "onnxruntime"),
    AOTI: Output("lrp_compiler.export.aoti:write_explainer", about="an AOTInductor package, which C++ runs"),
    PT2: Output("lrp_compiler.artefact.storage:write_explainer"),
}
"""Ending → how an explainer is written so; the first that fits."""
MODELS: dict[str, str] = {
    PT2: "lrp_compiler.capture.capture:load_program",
    ONNX: "lrp_compiler.capture.onnx_files:load_onnx",
}
"""Ending → `module:function` that reads a model: path → ExportedProgram, or a module that knows its own inputs."""


def ends_in(path: str | os.PathLike[str], ending: str) -> bool:
    """Whether a file's name ends so, in capital letters or small ones: `M.ONNX` is what `m.onnx` is."""
    return os.fspath(path).lower().endswith(ending)


def ending_of(path: str | os.PathLike[str], endings: Any = OUTPUTS) -> str:
    """The ending of a file's name.

    Raises:
        InputError: it is none of these.
    """
    for ending in endings:
        if ends_in(path, ending):
            return str(ending)
    raise InputError(f"{os.fspath(path)} must end in {' or '.join(endings)}.")


def runtime_of(path: str | os.PathLike[str]) -> Runtime:
    """What runs an explainer of such a file; torch where the ending says nothing."""
    return next((known.runtime for ending, known in OUTPUTS.items() if ends_in(path, ending)), "torch")


def stem_of(path: str | os.PathLike[str]) -> str:
    """What a model is called whose explainer, or itself, is such a file: the name without folders and endings."""
    name = os.path.basename(os.fspath(path))
    for ending in (next((known for known in OUTPUTS if ends_in(name, known)), ""), EXPLAINER):
        name = name[: len(name) - len(ending)] if ends_in(name, ending) else name
    return name


def writer_of(path: str | os.PathLike[str]) -> Callable[..., None]:
    """What writes an explainer to such a file; raises `InputError` if nothing does."""
    return _function(OUTPUTS[ending_of(path)].write)


def reader_of(path: str | os.PathLike[str]) -> Callable[..., Any]:
    """What reads a model from such a file: by its ending, and else as a `.pt2`."""
    return _function(next((read for ending, read in MODELS.items() if ends_in(path, ending)), MODELS[PT2]))


def _function(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
