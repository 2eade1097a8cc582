"""One network's explainers, compiled from the module and from the files that torch.onnx makes of it: how far apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.quiet import quiet
from lrp_compiler.capture import capture
from lrp_compiler.passes.graph import Float64

from .subject import Subject

BATCHES = (2, 3, 4)
"""Rows of the example, and of two runs."""
HALF_UNIT = 2.0**-24
"""By how much of a number the nearest float32 is off at most."""
ROUNDINGS = 4
"""How often weights are rounded another way."""


def compared(subject: Subject, files: dict[str, tuple[Path, int]], composite: str) -> dict[str, Any]:
    """What was found, by exporter: `opset`, and what `_figures` says; or `error`.

    Args:
        subject: the network.
        files: exporter → its file, which is written unless it is there, and the opset that it is asked for.
        composite: its name.
    """
    example = subject.make(BATCHES[0], subject.lengths[0])
    runs = [subject.make(batch, length) for batch, length in zip(BATCHES[1:], subject.lengths[1:], strict=True)]
    found: dict[str, Any] = {}
    for exporter, (path, opset) in files.items():
        try:
            if not path.exists():
                export(subject, example, path, exporter, opset)
            imported = onnx.load(path, load_external_data=False).opset_import
            found[exporter] = {"opset": max(entry.version for entry in imported if entry.domain in ("", "ai.onnx"))}
        except Exception as error:
            found[exporter] = {"opset": opset, "error": f"torch.onnx: {reason_of(error)}"}
    module = _Relevance(subject, capture(subject.model, example, dynamic_shapes=_sizes(subject)), composite, runs)
    for exporter, (path, _) in files.items():
        if "error" in found[exporter]:
            continue
        try:
            found[exporter] |= _figures(_Relevance(subject, capture(path), composite, runs), module)
        except Exception as error:
            found[exporter]["error"] = f"{type(error).__name__}: {error}"[:400]
    return found


class _Relevance:
    """Relevance of some inputs in float32 and in float64, and how many operations the graph has."""

    def __init__(self, subject: Subject, captured: Any, composite: str, runs: list[Any]) -> None:
        explainer = lrp.compile(captured.program, composite=composite, target=subject.target)
        own = len(explainer.about.outputs)
        exact = Float64(explainer.module)
        with torch.no_grad():
            self.single = [torch.cat([r.flatten() for r in explainer.module(*x)[own:]]).double() for x in runs]
            self.double = [torch.cat([r.flatten() for r in exact.run(*x)[own:]]) for x in runs]
        self._rerun = lambda weights: [
            torch.cat([r.flatten() for r in Otherwise(explainer.module, weights).run(*x)[own:]]) for x in runs
        ]
        self.operations = sum(node.op == "call_function" for node in explainer.module.graph.nodes)

    def otherwise(self, seed: int) -> list[Tensor]:
        """`double`, of weights that were rounded another way."""
        with torch.no_grad():
            return self._rerun(torch.Generator().manual_seed(seed))


class Otherwise(Float64):
    """A graph in float64 whose weights are up to half a unit in the last place of float32 from what they are."""

    def __init__(self, module: torch.fx.GraphModule, generator: torch.Generator) -> None:
        super().__init__(module)
        self.generator = generator

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A weight."""
        value = super().get_attr(target, args, kwargs)
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or not value.dim():
            return value
        off = torch.rand(value.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return value.double() * (1 + HALF_UNIT * off)


def _figures(file: _Relevance, module: _Relevance) -> dict[str, float]:
    """Shares of Σ|R|.

    `own`: of the module's explainer, float32 against float64. `stored`: what its weights, each rounded to another
    neighbour, change in float64: exporters fold weights in float32. `file_own`: as `own`, of the file's.
    `double`: the file's against the module's, both in float64: what the way through the file changed.
    `single`: both in float32. `size`: operations
    of the file's explainer for each one of the module's.
    """
    return {
        "own": _apart(module.single, module.double),
        "stored": max(_apart(module.otherwise(seed), module.double) for seed in range(ROUNDINGS)),
        "file_own": _apart(file.single, file.double),
        "double": _apart(file.double, module.double),
        "single": _apart(file.single, module.single),
        "size": file.operations / module.operations,
        "operations": module.operations,
    }


def _apart(given: list[Tensor], reference: list[Tensor]) -> float:
    """The larger one of two runs.

    Raises:
        ValueError: a run has no relevance at all, so that there are no shares of it.
    """
    if not all(bool(one.any()) for one in reference):
        raise ValueError("all relevance is 0: the explained output must not be 0 itself")
    pairs = zip(given, reference, strict=True)
    return max(float((a - b).abs().sum() / b.abs().sum()) for a, b in pairs)


def _sizes(subject: Subject) -> tuple[dict[int, Any], ...]:
    batch, length = Dim("batch"), Dim("length", max=64)
    return tuple({0: batch, 1: length} if name in subject.sequences else {0: batch} for name in subject.inputs)


def export(subject: Subject, example: tuple[Tensor, ...], path: Path, exporter: str, opset: int) -> None:
    """Write the network as an ONNX file, its batch and lengths open."""
    options: dict[str, Any] = {"input_names": list(subject.inputs), "output_names": ["logits"], "opset_version": opset}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, quiet(output=True), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            sizes = _sizes(subject)
            program = torch.onnx.export(
                subject.model, example, dynamo=True, dynamic_shapes=sizes, verbose=False, **options
            )
            assert program is not None
            program.save(temporary, external_data=False)
            return
        # The kernel that torch's attention layers take when they are evaluated has no translation.
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            axes = dict(_axes(subject))
            torch.onnx.export(subject.model, example, temporary, dynamo=False, dynamic_axes=axes, **options)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _axes(subject: Subject) -> Iterator[tuple[str, dict[int, str]]]:
    for name in subject.inputs:
        yield name, {0: "batch", 1: "length"} if name in subject.sequences else {0: "batch"}
