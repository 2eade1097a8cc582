"""Does the file run, the same every time, and each row by itself. Torch-free of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrp_compiler.base.metadata import Metadata

from .runs import run_flat
from .verification import Check, Result


def sane(explainer: Any, feeds: Mapping[str, np.ndarray], first: Result) -> list[Check]:
    """That all is finite, the same again, and what a row gets does not depend on the others."""
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
    off = 0.0
    names = {entry.key: entry.tensor.name for entry in explainer.about.relevance}
    for row in range(rows):
        one = {name: np.take(array, [row], axes[name]) if name in axes else array for name, array in feeds.items()}
        alone = {name: array for name, array in run_flat(explainer, one)[1].items() if array.dtype.kind == "f"}
        for name, array in alone.items():
            whole = np.take(first[1][name], [row], axes[names[name]])
            off = max(off, float(np.abs(array - whole).max() / (np.abs(whole).max() or 1)))
    checks.append(Check("rows", off < explainer.about.tolerance, f"alone, a row differs by {off:.0e}"))
    return checks


def _batch_axes(about: Metadata) -> dict[str, int] | None:
    specs = [*about.takes, *(entry.tensor for entry in about.relevance)]
    axes = {spec.name: spec.shape.index("batch") for spec in specs if "batch" in spec.shape}
    cut = any(spec.name in axes for spec in about.inputs)
    whole = all(entry.tensor.name in axes for entry in about.relevance)
    return axes if cut and whole and "batch" in about.sizes else None
