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


@dataclass(frozen=True)
class Output:
    """A format of explainers.

    Args:
        write: `module:function` that writes one: `(artefact, path, **options)`.
        options: names of the options that it takes.
        runtime: what runs such a file.
    """

    write: str
    options: tuple[str, ...] = ()
    runtime: Runtime = "torch"


OUTPUTS: dict[str, Output] = {
    ".onnx": Output("lrp_compiler.export.onnx:write_explainer", ("opset", "dtype", "profile"), "onnxruntime"),
    ".aoti.pt2": Output("lrp_compiler.export.aoti:write_explainer"),
    ".pt2": Output("lrp_compiler.artefact.storage:write_explainer"),
}
"""Ending → how an explainer is written so; the first that fits."""
MODELS: dict[str, str] = {
    ".pt2": "lrp_compiler.capture.capture:load_program",
    ".onnx": "lrp_compiler.capture.onnx_files:load_onnx",
}
"""Ending → `module:function` that reads a model: path → ExportedProgram, or a module that knows its own inputs."""


def ending_of(path: str | os.PathLike[str], endings: Any = OUTPUTS) -> str:
    """The ending of a file's name.

    Raises:
        InputError: it is none of these.
    """
    name = os.fspath(path)
    for ending in endings:
        if name.endswith(ending):
            return str(ending)
    raise InputError(f"{name} must end in {' or '.join(endings)}.")


def runtime_of(path: str | os.PathLike[str]) -> Runtime:
    """What runs an explainer of such a file; torch where the ending says nothing."""
    name = os.fspath(path)
    return next((known.runtime for ending, known in OUTPUTS.items() if name.endswith(ending)), "torch")


def writer_of(path: str | os.PathLike[str]) -> Callable[..., None]:
    """What writes an explainer to such a file; raises `InputError` if nothing does."""
    return _function(OUTPUTS[ending_of(path)].write)


def reader_of(path: str | os.PathLike[str]) -> Callable[..., Any]:
    """What reads a model from such a file: by its ending, and else as a `.pt2`."""
    name = os.fspath(path)
    return _function(next((read for ending, read in MODELS.items() if name.endswith(ending)), MODELS[".pt2"]))


def _function(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
