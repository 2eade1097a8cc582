"""What the pictures share: which relevance is drawn, of which rows, and where its colours end. numpy only."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import Explained, Labels, number

RED, BLUE = (178, 24, 43), (33, 102, 172)
"""What speaks for the target, and against it: the arms of RdBu."""
STRONGEST = 0.7
"""Opacity of the strongest token: the text on it stays legible, dark on light and light on dark."""
LETTER = 0.62
"""Width of a letter, of the size of its font, as captions have them on average."""
NAME_LINES = 2
"""Of a class's name above a part of a picture; the rest of a longer one is left out."""
NOTHING = "all relevance is 0"


def drawn(explanation: Results[Any], rows: Iterable[int] | int | None, labels: Labels | None) -> list[Explained]:
    """The explained values of these rows of the batch; None: all.

    Raises:
        InputError: there is no such row.
    """
    cases = explanation.explained(labels)
    if rows is None:
        return cases
    wanted = [rows] if isinstance(rows, int) else list(rows)
    there = {case.row for case in cases}
    if not wanted or not there.issuperset(wanted):
        raise InputError(f"The rows {wanted} cannot be drawn: the batch has rows 0 to {max(there)}.")
    return [case for row in wanted for case in cases if case.row == row]


def choose(explanation: Results[Any], name: str | None, what: str, fits: Callable[[tuple[int, ...], str], bool]) -> str:
    """The relevance to draw: the one named, or else the only one that fits, of an input if there is such a one.

    Args:
        explanation: what was run.
        name: what the caller asked for.
        what: what is wanted, for messages.
        fits: whether the shape of one row and the input's dtype (empty where it is no input) are of that kind.

    Raises:
        InputError: there is none, it does not fit, or several would.
    """
    arrays: dict[str, Any] = explanation.relevance
    first = 1 + (explanation.run.several is not None)
    kinds = {
        key: (tuple(values.shape[first:]), str(getattr(explanation.run.inputs.get(key), "dtype", "")))
        for key, values in arrays.items()
    }
    listing = ", ".join(f"{key} {list(values.shape)}" for key, values in arrays.items())
    if name is not None and name not in kinds:
        raise InputError(f"There is no relevance of {name!r} here, but of {listing}.")
    found = [key for key, (shape, dtype) in kinds.items() if name in (None, key) and fits(shape, dtype)]
    found = [key for key in found if key in explanation.run.inputs] or found
    if not found:
        raise InputError(f"This needs relevance of {what}; here is {listing if name is None else name}.")
    if len(found) > 1:
        raise InputError(f"Relevance of {' and of '.join(found)} can be drawn: choose with input=.")
    return found[0]


def limit_of(values: np.ndarray, percentile: float, limit: float | None = None) -> float:
    """Where the colours end: `limit`, or that percentile of |relevance|; 1 where all is zero.

    Raises:
        InputError: a percentile outside of (0, 100], a limit that is not above 0, or relevance that is not finite.
    """
    if not 0 < percentile <= 100:
        raise InputError(f"The percentile is above 0 and at most 100, not {percentile!r}.")
    if limit is not None and not limit > 0:
        raise InputError(f"The limit is a relevance above 0, not {limit!r}.")
    size = np.abs(finite(values))
    # A few large values among zeros: their percentile may be 0.
    return float(limit or np.percentile(size, percentile) or size.max() or 1.0)


def smoothed(values: np.ndarray, width: float, axes: Sequence[int]) -> np.ndarray:
    """Spread by a Gaussian of this standard deviation, in elements; mirrored at the edges, so that sums stay."""
    if width < 0:
        raise InputError(f"Smoothing is a width in elements, 0 for none, not {width!r}.")
    if width == 0:
        return values
    reach = np.arange(-int(4 * width + 0.5), int(4 * width + 0.5) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    kernel /= kernel.sum()
    for axis in axes:
        spread = np.moveaxis(values, axis, -1)
        padding = [(0, 0)] * (spread.ndim - 1) + [(len(reach) // 2,) * 2]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(spread, padding, mode="symmetric"), len(reach), -1)
        values = np.moveaxis(windows @ kernel, -1, axis)
    return values


def finite(values: np.ndarray) -> np.ndarray:
    """The values themselves.

    Raises:
        InputError: one of them is NaN or infinite.
    """
    odd = values.size - np.count_nonzero(np.isfinite(values))
    if odd:
        raise InputError(
            f"{odd} of {values.size} values of relevance are NaN or infinite, which no colour stands for: "
            "explainer.audit(...) of the same inputs says where they arise; rows without them can be drawn by number."
        )
    return values


def note(parts: Iterable[np.ndarray], percentile: float, limit: float | None, smooth: float, unit: str) -> str:
    """What was done to the colours of these parts, in words."""
    values = list(parts)
    if not any(part.any() for part in values):
        return NOTHING
    largest = "largest" if percentile == 100 else f"{percentile:g}th percentile of"
    apart = ", part by part" * (len(values) > 1)
    end = f"±{limit:.3g}" if limit else f"the {largest} |relevance|{apart}"
    return f"colours end at {end}" + f"; smoothed, σ = {smooth:g} {unit}" * (smooth > 0)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many characters, that break between words: never in a number, nor between it and its name."""
    held = re.sub(r"( =)? (?=[-−±]?\d)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    lines = [line for part in held.splitlines() for line in textwrap.wrap(part, width, break_on_hyphens=False)]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def ends(values: np.ndarray, limit: float) -> str:
    """Where the colours of one part end, in words."""
    return f"colours end at ±{limit:.3g}" if values.any() else NOTHING


def room(inches: float, points: float) -> int:
    """How many characters of a caption of that size stand side by side in so many inches."""
    return max(12, int(72 * inches / (LETTER * points)))


def name_in(text: str, width: int) -> list[str]:
    """A class's name as `wrapped`; of one that takes more lines than there are, some words are left out: `… (class 3)`.

    What stands in brackets at its end is kept.
    """
    lines = wrapped(text, width)
    if len(lines) <= NAME_LINES:
        return lines
    kept = re.search(r"(?: \([^()]*\))?$", text)
    tail = f" …{kept[0] if kept else ''}"
    last = textwrap.wrap(lines[NAME_LINES - 1], max(1, width - len(tail)))[:1]
    return [*lines[: NAME_LINES - 1], "".join(last).rstrip(",;:.") + tail]


def whereabouts(books: Any) -> str:
    """Where all that was explained went, in words: `bias 8.93 (most at features.12: 4.2), stabiliser 0.2, inputs 0.1`.

    Args:
        books: an `Audit` of the run.
    """
    causes = sorted(books.absorbed.items(), key=lambda item: -abs(item[1]))
    said = [f"{cause} {number(share)}" for cause, share in causes[:3]]
    if said:
        first = causes[0][0]
        most = max(books.by_module().entries, key=lambda entry: abs(entry.absorbed.get(first, 0.0)))
        said[0] += f" (most at {most.node}: {number(most.absorbed[first])})"
    others = sum(share for _, share in causes[3:])
    said += [f"others {number(others)}"] * (len(causes) > 3)
    return ", ".join([*said, f"inputs {number(sum(books.inputs.values()))}"])


def mixed(strength: float) -> tuple[int, ...]:
    """Red for 1, blue for −1, white for 0, as light as dark text on it needs."""
    end = RED if strength > 0 else BLUE
    return tuple(round(255 + STRONGEST * abs(strength) * (part - 255)) for part in end)
