"""The files that files.py had written, in onnxruntime and in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import Case

FILES = {"forward": "forward/model.onnx", "explainer": "fast/model.lrp.onnx", "small": "small/model.lrp.onnx"}
EXPLAINER = "explainer.lrp.pt2"


def make(name: str, case: Case, folder: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    if name in FILES:
        lean = {"fold_weights": not case.least} if name == "small" else None
        return in_onnxruntime(folder / FILES[name], threads, lean)
    return in_torch(folder / EXPLAINER, threads, name == "torch-compile")


def in_onnxruntime(path: Path, threads: int, lean: dict[str, Any] | None) -> Callable[[dict[str, Any]], Any]:
    """All outputs, by the same options for everybody but `lean`; torch is not imported."""
    import onnxruntime

    from lrp_compiler.runtime import lean_options

    options = onnxruntime.SessionOptions() if lean is None else lean_options(**lean)
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[-1]


def in_torch(path: Path, threads: int, compiled: bool) -> Callable[[dict[str, Any]], Any]:
    import torch

    import lrp_compiler as lrp

    torch.set_num_threads(threads)
    explainer = lrp.load(path)
    module = torch.compile(explainer.module) if compiled else explainer.module

    @torch.no_grad()
    def run(inputs: dict[str, Any]) -> Any:
        return module(*map(torch.from_numpy, inputs.values()))[-1].numpy()

    return run
