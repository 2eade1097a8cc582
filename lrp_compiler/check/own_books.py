"""Do the sums that a file itself returns fit its relevance and its output. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.reductions import keeps_sums
from lrp_compiler.base.run import Run
from lrp_compiler.base.specs import ABSORBED, SUM

from .verification import Check, Result

LEAST = 6e-8
"""What an element of float16 may be off that is near zero."""


def own_books(about: Metadata, feeds: Mapping[str, np.ndarray], first: Result) -> list[Check]:
    """Two questions in one, of a file that was compiled with `reduce`; none of any other.

    What the relevance adds up to is the Σ that the file gives; and all Σ with what it says was absorbed are what was
    put on the explained output. Whether each share is the right one, the model alone can say.

    Args:
        about: what the file says of itself.
        feeds: what it was run on.
        first: what came out.
    """
    if not about.reduce:
        return []
    sums = {entry.input: first[1][entry.key] for entry in about.relevance if entry.form == SUM}
    found, off = [], 0.0
    if keeps_sums(about.reduce):
        for name, total in sums.items():
            entries = [entry for entry in about.relevance if entry.form == "total" and entry.input == name]
            parts = [first[1][entry.key].astype(np.float64).reshape(*total.shape, -1) for entry in entries]
            error = np.abs(sum(part.sum(-1) for part in parts) - total)
            size = sum(np.abs(part).sum(-1) for part in parts)
            room = LEAST * sum(part.shape[-1] for part in parts) / about.tolerance
            off = max(off, float((error / np.maximum(size + room, 1e-30)).max()))
        found.append("relevance adds up to its Σ")
    seeded = _seeded(about, feeds, first)
    if seeded is not None and ABSORBED in first[1] and sums:
        every = [*sums.values(), first[1][ABSORBED]]
        seeded = seeded.reshape(every[0].shape)
        size = np.abs(seeded) + sum(np.abs(part).astype(np.float64) for part in every)
        error = np.abs(seeded - sum(part.astype(np.float64) for part in every))
        off = max(off, float((error / np.maximum(size, 1e-30)).max()))
        found.append("Σ and what was absorbed are what was put on the output")
    if not found:
        return [Check("books", None, f"of relevance reduced by {', '.join(about.reduce)} nothing is known to add up")]
    return [Check("books", off <= about.tolerance, f"{', and '.join(found)}, to {off:.0e}")]


def _seeded(about: Metadata, feeds: Mapping[str, np.ndarray], first: Result) -> np.ndarray | None:
    """What was put on the explained output, `[targets, batch]`, by the model's output; None where that does not say."""
    if about.seed == "tensor":
        return np.asarray(feeds["seed"], np.float64).sum(-1)
    inputs, choices = ({spec.name: feeds[spec.name] for spec in specs} for specs in (about.inputs, about.choices))
    run = Run(about, inputs, dict(zip((spec.name for spec in about.outputs), first[0], strict=True)), choices)
    z = run.logits()
    if z is None or about.scale != "logit":
        return None
    chosen = [[pick if isinstance(pick, tuple) else (pick,) for pick in row] for row in run.classes()]
    if any(pick == (None,) for row in chosen for pick in row):
        return None
    signs = (1.0, -1.0)
    return np.array(
        [
            [
                sum(
                    sign * (1.0 if about.seed == "one" else z[at, number])
                    for sign, number in zip(signs, pick, strict=False)
                )
                for at, pick in enumerate(row)
            ]
            for row in chosen
        ]
    )
