"""Relevance by depth: what each layer holds of it, and each head of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import Explained, Labels, number, to_numpy

from .common import LETTER, drawn, finite, limit_of, wrapped
from .figure import COLOURS, PHONE, POINTS, Colormap, Picture, colour_bar, diverging

MOST_LAYERS, MOST_HEADS, NAME = 40, 16, 30
"""Labels beside and below a map of heads, and the letters of a label: of a longer one its end is shown."""


def layers(
    explanation: Results[Any],
    relevance: Mapping[str, Any] | None = None,
    *,
    row: int = 0,
    target: int = 0,
    labels: Labels | None = None,
    parts: bool = False,
    colours: str | Colormap = COLOURS,
    title: str = "",
) -> Picture:
    """A bar for each intermediate value: Σ of the relevance that it holds, beside the logit.

    Args:
        explanation: what was run.
        relevance: name → relevance of a value, with the dims of the batch (and of several targets) in front, in the
            order from input to output. Default: what the explanation has of values that are no inputs (`wrt` modules).
        row: which row of the batch.
        target: which of several targets.
        labels: the classes' names.
        parts: show the positive and the negative relevance apart, behind the bar of the sum.
        colours: a diverging colour map of matplotlib.
        title: a first line.

    Raises:
        LrpError: matplotlib is not there.
        InputError: there is no relevance of an intermediate value, or no such row.
    """
    case, values = _selected(explanation, relevance, row, target, labels)
    palette = diverging(colours)
    figure = Picture(figsize=(8, 0.28 * len(values) + 1.9), layout="constrained")
    axis = figure.add_subplot()
    for at, array in enumerate(values.values()):
        if parts:
            for part, end in ((array.clip(min=0).sum(), 0.65), (array.clip(max=0).sum(), 0.35)):
                axis.barh(at, part, color=palette(end), height=0.9)
        total = float(finite(array).sum())
        axis.barh(at, total, color=palette(0.9 if total > 0 else 0.1), height=0.5)
        # Beside the axes, where no line is drawn.
        axis.text(1.01, at, number(total), va="center", fontsize=8, transform=axis.get_yaxis_transform())
    axis.axvline(0, color="black", linewidth=0.6)
    if case.logit is not None:
        axis.axvline(case.logit, color="black", linewidth=0.8, linestyle="--")
        above: dict[str, Any] = {"va": "bottom", "ha": "center", "transform": axis.get_xaxis_transform()}
        axis.text(case.logit, 1.01, f"{case.kind} {number(case.logit)}", fontsize=8, **above)
    axis.set_yticks(range(len(values)), list(values), fontsize=8)
    axis.set_xlabel("Σ relevance" + ", and of its positive and negative part (pale)" * parts)
    axis.margins(x=0.05)
    axis.set_ylim(-0.7, len(values) - 0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_heading(title, explanation, case), fontsize=10)
    return figure


def heads(
    explanation: Results[Any],
    relevance: Mapping[str, Any] | None = None,
    *,
    axis: int = 0,
    count: int | None = None,
    row: int = 0,
    target: int = 0,
    labels: Labels | None = None,
    percentile: float = 100.0,
    limit: float | None = None,
    colours: str | Colormap = COLOURS,
    title: str = "",
) -> Picture:
    """A map of layers and heads: Σ of the relevance of each head.

    Args:
        explanation: what was run.
        relevance: as `layers` takes it; all values have the same number of heads.
        axis: the axis of the heads in a value, counted without batch and targets: 0 for `[batch, heads, …]`.
        count: how many heads lie side by side in that axis (-1 for `[batch, sequence, heads · size]`); default: each
            element is a head.
        row: which row of the batch.
        target: which of several targets.
        labels: the classes' names.
        percentile: colours end at this percentile of the |relevance| of a head; 100: at the largest.
        limit: the relevance at which they end, instead.
        colours: a diverging colour map of matplotlib.
        title: a first line.

    Raises:
        LrpError: matplotlib is not there.
        InputError: there is no relevance of an intermediate value, no such row, or the heads do not fit.
    """
    case, values = _selected(explanation, relevance, row, target, labels)
    palette = diverging(colours)
    sums = [_by_head(name, array, axis, count) for name, array in values.items()]
    if len({len(one) for one in sums}) > 1:
        raise InputError(f"All layers need the same number of heads, not {sorted({len(one) for one in sums})}.")
    table = np.stack(sums)
    end = limit_of(table, percentile, limit)
    pattern, names = told_apart(list(values))
    # As tall as the pattern beside it, which is written upwards.
    high = max(0.28 * len(table), len(pattern) * LETTER * POINTS / 72)
    figure = Picture(figsize=(PHONE, high + 3.2), layout="constrained")
    drawing = figure.add_subplot()
    drawing.imshow(table, cmap=palette, vmin=-end, vmax=end, aspect="auto", origin="lower")
    every = -(-len(names) // MOST_LAYERS)
    drawing.set_yticks(range(0, len(names), every), names[::every], fontsize=POINTS)
    drawing.set_xticks(range(0, table.shape[1], -(-table.shape[1] // MOST_HEADS)))
    drawing.tick_params(axis="x", labelsize=POINTS)
    drawing.set_xlabel("head" if table.shape[1] > 1 else "the only head", fontsize=POINTS)
    drawing.set_ylabel(pattern, fontsize=POINTS)
    colour_bar(figure, drawing, palette, [end], POINTS, 0.8)
    figure.suptitle("\n".join(wrapped(_heading(title, explanation, case), 68)), fontsize=POINTS)
    return figure


def told_apart(names: Sequence[str]) -> tuple[str, list[str]]:
    """A pattern that all names fit, and what stands in it for each; without one the names. Of long ones the end.

    encoder.layer.0.attention, encoder.layer.1.attention  →  encoder.layer.*.attention; 0, 1
    """
    parts = [name.split(".") for name in names]
    apart = [at for at, each in enumerate(zip(*parts, strict=False)) if len(set(each)) > 1]
    if len(names) == 1:
        return names[0], [""]
    if len({len(each) for each in parts}) > 1 or len(apart) != 1:
        return "", [_end(name) for name in names]
    pattern = ".".join([*parts[0][: apart[0]], "*", *parts[0][apart[0] + 1 :]])
    return pattern * (pattern != "*"), [_end(each[apart[0]]) for each in parts]


def _end(name: str) -> str:
    return name if len(name) <= NAME else f"…{name[1 - NAME :]}"


def _selected(
    explanation: Results[Any], relevance: Mapping[str, Any] | None, row: int, target: int, labels: Labels | None
) -> tuple[Explained, dict[str, np.ndarray]]:
    """The explained value, and its share of each intermediate one: float64, without batch and targets."""
    run = explanation.run
    if relevance is None:
        known = {spec.name for spec in run.about.inputs}
        relevance = {name: values for name, values in explanation.relevance.items() if name not in known}
    if not relevance:
        raise InputError("There is no relevance of an intermediate value: compile with wrt=, naming modules.")
    chosen = drawn(explanation, row, labels)
    if not 0 <= target < len(chosen):
        raise InputError(f"Target {target} cannot be drawn: there are {len(chosen)}, from 0.")
    case = chosen[target]
    front = 1 + (run.several is not None)
    found = {}
    for name, values in relevance.items():
        array = to_numpy(values)
        if array.ndim < front or array.shape[front - 1] <= row:
            raise InputError(f"The relevance of {name!r} has shape {list(array.shape)}: the batch must be in front.")
        found[name] = (array if case.number is None else array[case.number])[row].astype(np.float64)
    return case, found


def _by_head(name: str, values: np.ndarray, axis: int, count: int | None) -> np.ndarray:
    if not -values.ndim <= axis < values.ndim or values.shape[axis] % (count or 1):
        raise InputError(f"A row of {name!r} has shape {list(values.shape)}: no {count or ''} heads in axis {axis}.")
    moved = np.moveaxis(values, axis, 0)
    summed: np.ndarray = moved.reshape(count or len(moved), -1).sum(1)
    return summed


def _heading(title: str, explanation: Results[Any], case: Explained) -> str:
    lines = [title, explanation.run.heading, f"{case.name}: {case.caption}", case.elsewhere]
    return "\n".join(wrapped("\n".join(lines), 100))
