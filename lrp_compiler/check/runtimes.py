"""What runs an explainer's file besides this library: each as a function from named inputs to all results by name.

    RUNTIMES["openvino"](path, about)(feeds) → {"logits": …, "relevance.x": …}

One line of `RUNTIMES` a runtime. Each is somebody else's, and so is what it makes of a file: `verify` says how far its
relevance is from the truth.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError, InstallError, LrpError
from lrp_compiler.base.installed import command
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.onnx_session import open_session
from lrp_compiler.base.run import to_numpy
from lrp_compiler.formats import ONNX, PT2, ends_in
from lrp_compiler.runtime import OnnxExplainer

from .verification import Check, Result

Arrays = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], Arrays]
SCRIPT = Path(__file__).parents[1] / "web" / "node" / "explain.mjs"


@dataclass(frozen=True)
class Runtime:
    """Something that runs an explainer's file.

    Args:
        opens: `(path, what the file says of itself)` → what runs it.
        takes: the ending of the files that it takes.
    """

    opens: Callable[[str, Metadata], Run]
    takes: str


def _onnxruntime(path: str, about: Metadata) -> Run:
    """onnxruntime on the CPU, with all its optimisations."""
    session = open_session(path, path, None, None)
    names = [value.name for value in session.get_outputs()]

    def run(feeds: Mapping[str, np.ndarray]) -> Arrays:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def _openvino(path: str, about: Metadata) -> Run:
    """Intel's OpenVINO on the CPU, in float32 (it may choose bfloat16 by itself)."""
    try:
        import openvino
    except ImportError as error:
        raise InstallError(f"OpenVINO is not installed: {command('openvino')}.") from error
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise LrpError(f"OpenVINO does not take this file: {_first_line(error)}.") from error

    def run(feeds: Mapping[str, np.ndarray]) -> Arrays:
        try:
            results = compiled(dict(feeds))
        except RuntimeError as error:
            raise LrpError(f"OpenVINO failed on these inputs: {_first_line(error)}.") from error
        return {name: np.array(array) for output, array in results.items() for name in output.names}

    return run


def _node(path: str, about: Metadata) -> Run:
    """onnxruntime-node, of a `node_modules` in the working directory or above it (or in NODE_PATH)."""
    program = shutil.which("node")
    if program is None:
        raise LrpError("There is no program called node: install Node.js.")
    return partial(_run_node, program, path)


def _run_node(program: str, path: str, feeds: Mapping[str, np.ndarray]) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for number, (name, array) in enumerate(feeds.items()):
            if str(array.dtype) not in IN_NODE:
                raise LrpError(f"Input {name!r} is {array.dtype}; in Node {', '.join(IN_NODE)} are tried.")
            file = os.path.join(folder, f"input.{number}")
            Path(file).write_bytes(np.ascontiguousarray(array).tobytes())
            inputs.append({"name": name, "file": file, "dtype": str(array.dtype), "shape": list(array.shape)})
        asked = json.dumps({"path": os.path.abspath(path), "inputs": inputs, "folder": folder})
        done = subprocess.run([program, os.fspath(SCRIPT)], input=asked, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line.partition(SCRIPT.name + ": ")[2] for line in done.stderr.splitlines()]
            why = next(filter(None, said), "it says nothing").rstrip(".")
            raise LrpError(f"Node does not run this file: {why}.")
        return {
            entry["name"]: np.fromfile(entry["file"], entry["dtype"]).reshape(entry["shape"])
            for entry in json.loads(done.stdout)
        }


IN_NODE = ("float32", "float64", "int64", "int32", "uint8", "bool")
"""Dtypes that have an array of their own in JavaScript."""


def _aoti(path: str, about: Metadata) -> Run:
    """An AOTInductor package, made of the explainer for the occasion."""
    import torch

    from lrp_compiler.artefact import of_array
    from lrp_compiler.explainer import load
    from lrp_compiler.torch_private import load_package

    explainer = load(path)
    with tempfile.TemporaryDirectory() as folder:
        package = os.path.join(folder, "package.aoti.pt2")
        explainer.to_aoti(package)
        call = load_package(package)
    results = [spec.name for spec in about.returns]

    def run(feeds: Mapping[str, np.ndarray]) -> Arrays:
        with torch.no_grad():
            given: list[Any] = call(*(of_array(feeds[spec.name], spec.dtype) for spec in about.takes))
        return {name: to_numpy(result) for name, result in zip(results, given, strict=True)}

    return run


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


ROOM = 0.05
"""Share of Σ|R| by which a runtime may differ: it adds up in another order, and may choose another maximum."""
RUNTIMES = {
    "onnxruntime": Runtime(_onnxruntime, ONNX),
    "openvino": Runtime(_openvino, ONNX),
    "node": Runtime(_node, ONNX),
    "aoti": Runtime(_aoti, PT2),
}
"""By the name that `verify --runtime` takes."""


def elsewhere(name: str, path: str | os.PathLike[str]) -> Runtime:
    """The runtime of this name, if it takes such a file."""
    if name not in RUNTIMES:
        raise InputError(f"There is no runtime {name!r}: choose {', '.join(RUNTIMES)}.")
    if not ends_in(path, RUNTIMES[name].takes):
        raise InputError(f"{name} takes files that end in {RUNTIMES[name].takes}, and {os.fspath(path)!r} does not.")
    return RUNTIMES[name]


def same_there(
    runtime: str,
    results: Mapping[str, np.ndarray],
    reference: Any,
    feeds: Mapping[str, np.ndarray],
    first: Result,
) -> Check:
    """How far another runtime's relevance and explained output are from the truth, as a share of all of it."""
    about, at = reference.about, reference.about.explained
    known = [spec.name for spec in (*about.outputs[at : at + 1], *(entry.tensor for entry in about.relevance))]
    known = [name for name in known if not name.endswith(".positions")]  # of equal values another may come first
    lacking = [name for name in known if name not in results]
    if lacking:
        return Check("runtime", False, f"{runtime} gives no {lacking[0]}")
    if isinstance(reference, OnnxExplainer):
        if runtime == "onnxruntime":
            return Check("runtime", None, "needs the model: --against MODEL.pt2")
        words, true = "onnxruntime", [*first[0], *first[1].values()]
    else:
        from .in_torch import exact_results

        words, true = "float64", exact_results(reference, feeds)
    named = dict(zip((spec.name for spec in about.returns), true, strict=True))
    off = {name: _share(results[name], named[name]) for name in known}
    worst = max(off, key=lambda name: off[name])
    return Check("runtime", off[worst] <= ROOM, f"{worst} of {runtime} is {off[worst]:.0e} from {words}'s")


def _share(found: np.ndarray, true: np.ndarray) -> float:
    """Σ|difference| / Σ|true|; infinite where shapes differ, or only one of the two is finite."""
    if found.shape != true.shape or not np.array_equal(np.isfinite(found), np.isfinite(true)):
        return np.inf
    known = np.isfinite(true)
    found, true = found[known].astype(np.float64), true[known].astype(np.float64)
    return float(np.abs(found - true).sum() / (np.abs(true).sum() or 1))
