"""Does the file run, the same every time, and each row by itself. Torch-free of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrp_compiler.base.metadata import Metadata

from .runs import run_flat
from .verification import Check, Result

ROUNDING = 256
"""So many steps of its precision an output may be off because other kernels run at other sizes."""


def sane(explainer: Any, feeds: Mapping[str, np.ndarray], first: Result) -> list[Check]:
    """That all is finite, the same again, and what a row gets does not depend on the others, unless the model's output
    does."""
    arrays = [*first[0], *first[1].values()]
    broken = sum(int((~np.isfinite(array)).sum()) for array in arrays if array.dtype.kind == "f")
    shapes = ", ".join(f"{name}{list(array.shape)}" for name, array in feeds.items())
    checks = [Check("runs", broken == 0, f"on {shapes}" + (f": {broken} values are not finite" if broken else ""))]
    again = run_flat(explainer, feeds)
    equal = all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, [*again[0], *again[1].values()], strict=True)
    )
    checks.append(Check("repeats", equal, "a second run gives the same" if equal else "a second run differs"))
    axes = _batch_axes(explainer.about)
    if axes is None:
        return [*checks, Check("rows", None, "the batch is fixed, or relevance has no batch")]
    rows = next(feeds[name].shape[axis] for name, axis in axes.items() if name in feeds)
    off = coupled = 0.0
    names = {entry.key: entry.tensor.name for entry in explainer.about.relevance}
    outputs = {
        at: spec.shape.index("batch") for at, spec in enumerate(explainer.about.outputs) if "batch" in spec.shape
    }
    for row in range(rows):
        one = {name: np.take(array, [row], axes[name]) if name in axes else array for name, array in feeds.items()}
        predicted, explained = run_flat(explainer, one)
        for name, array in explained.items():
            if array.dtype.kind == "f":
                off = max(off, _apart(array, first[1][name], row, axes[names[name]]))
        for at, axis in outputs.items():
            if predicted[at].dtype.kind == "f":
                apart = _apart(predicted[at], first[0][at], row, axis)
                coupled = max(coupled, apart if apart > ROUNDING * np.finfo(predicted[at].dtype).eps else 0.0)
    if coupled and off >= explainer.about.tolerance:
        found = (
            f"the model's own output of a row depends on the rows beside it: alone it differs by {coupled:.0e}, so "
            f"relevance differs, too, by {off:.0e}; a scale may be that of the whole batch, as after dynamic "
            "quantisation"
        )
        return [*checks, Check("rows", True, found, warns=True)]
    return [*checks, Check("rows", off < explainer.about.tolerance, f"alone, a row differs by {off:.0e}")]


def _apart(alone: np.ndarray, whole: np.ndarray, row: int, axis: int) -> float:
    """How far a row by itself is from the same row among others, as a share of its largest element."""
    among = np.take(whole, [row], axis)
    return float(np.abs(alone - among).max() / (np.abs(among).max() or 1))


def _batch_axes(about: Metadata) -> dict[str, int] | None:
    specs = [*about.takes, *(entry.tensor for entry in about.relevance)]
    axes = {spec.name: spec.shape.index("batch") for spec in specs if "batch" in spec.shape}
    cut = any(spec.name in axes for spec in about.inputs)
    whole = all(entry.tensor.name in axes for entry in about.relevance)
    return axes if cut and whole and "batch" in about.sizes else None
