"""Relevance of pixels: signed, symmetric around zero, over the picture or beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import Explained, Labels, number

from .common import choose, drawn, ends, limit_of, name_in, note, room, smoothed, whereabouts, wrapped
from .figure import COLOURS, Colormap, Picture, colour_bar, diverging
from .pixels import aggregated, flat, is_image, pictures_of

STYLES = ("overlay", "contour", "beside", "plain")
LEVELS = (0.2, 0.5, 0.8)
"""Contours are drawn at these shares of the limit, on both sides."""
SIZE, LINE = 8.5, 0.16
"""Of a caption: its font in points, and a line's height in inches."""


def heatmap(
    explanation: Results[Any],
    image: Any = None,
    *,
    input: str | None = None,
    aggregate: bool = False,
    labels: Labels | None = None,
    style: str = "overlay",
    rows: Iterable[int] | int | None = None,
    percentile: float = 99.5,
    limit: float | None = None,
    smooth: float = 0.0,
    colours: str | Colormap = COLOURS,
    columns: int | None = None,
    books: Any = None,
    title: str = "",
) -> Picture:
    """Draw the relevance of an image, summed over its channels: one part for each row of the batch.

    With several targets, a row's targets stand side by side.

    Args:
        explanation: of an input `[batch, channels, height, width]`, `[batch, height, width, channels]` or
            `[batch, height, width]`.
        image: what to draw it on, as the network saw it (cropped), at any resolution: a PIL image or an array
            `[height, width]`, `[height, width, 3]` or `[3, height, width]`, or a list of these, one for each row that
            is drawn or for each of the batch. Default: the network's input, scaled to its own range. False: nothing.
        input: whose relevance; needed where several inputs are images.
        aggregate: draw what is summed over values of the network (`aggregate=` of the compiler), not relevance.
        labels: the classes' names.
        style: "overlay": on the picture in grey, the stronger the more opaque; "contour": lines at 20, 50 and 80 % of
            the limit, on the picture in colour; "beside": the picture, then relevance; "plain": relevance alone.
        rows: which rows of the batch; default: all.
        percentile: the colours end at this percentile of the |relevance| of each part, since a few pixels dwarf all
            others; 100: at the largest.
        limit: the relevance at which the colours of all parts end, instead.
        smooth: standard deviation of a Gaussian, in pixels, that relevance is smoothed by; sums stay as they are.
        colours: a diverging colour map of matplotlib.
        columns: parts side by side; default: 4, or as many as there are targets.
        books: `explainer.audit(…)` of the same run: what in the network absorbed how much, and where most of it, is
            said above all parts.
        title: a first line.

    Raises:
        LrpError: matplotlib is not there.
        InputError: no relevance of an image, an image of another aspect or number, an unknown option.
    """
    if style not in STYLES:
        raise InputError(f"There is no style {style!r}: choose {', '.join(STYLES)}.")
    cases, palette = drawn(explanation, rows, labels), diverging(colours)
    shown = aggregated(explanation) if aggregate else explanation
    name = choose(shown, input, "an image, [batch, channels, height, width]", is_image)
    maps = [smoothed(flat(shown.of(case, name)), smooth, (0, 1)) for case in cases]
    if style == "contour" and min(maps[0].shape) < 2:
        raise InputError("Contours are lines between pixels, two at least along both sides: choose another style.")
    limits = [limit_of(values, percentile, limit) for values in maps]
    order = list(dict.fromkeys(case.row for case in cases))
    seen, batch = explanation.run.inputs.get(name), len(explanation.run.classes()[0])
    pictures = pictures_of(image, seen, order, batch, maps[0].shape, "rows=")

    wide = columns or explanation.run.several or min(len(cases), 4)
    each = 2 if style == "beside" else 1
    tall = -(-len(cases) // wide)
    across = max(2.7 * wide * each, 6.4)
    letters = room(across / (wide * each), SIZE)
    titles = [
        _caption(case, values, end if limit is None else None, books is None, letters)
        for case, values, end in zip(cases, maps, limits, strict=True)
    ]
    went = "" if books is None else f"of all rows' {number(books.seed)}: {whereabouts(books)}"
    summed = f"a score: relevance summed over {', '.join(explanation.run.about.aggregate)}" if aggregate else ""
    above = [title, explanation.run.heading, summed, note(maps, percentile, limit, smooth, "pixels"), went]
    heading = wrapped("\n".join(above), int(14.5 * across))
    high = min(across / (wide * each) * maps[0].shape[0] / maps[0].shape[1], 3.3) + LINE * max(map(len, titles))
    size = across, round((high + 0.05) * tall + 0.8 + LINE * len(heading), 1)
    figure = Picture(figsize=size, layout="constrained")
    axes = figure.subplots(tall, wide * each, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    parts = axes.reshape(-1, each)
    for part, case, values, end, lines in zip(parts, cases, maps, limits, titles, strict=False):
        picture = pictures[order.index(case.row)]
        where: dict[str, Any] = {"extent": (0, values.shape[1], values.shape[0], 0)}
        if picture is not None and style != "plain":
            draw_picture(part[0], picture, grey=style == "overlay", where=where)
        draw_relevance(part[-1], values, end, palette, style if picture is not None else "plain", where)
        part[-1].set_title("\n".join(lines), fontsize=SIZE)
    colour_bar(figure, axes, palette, limits)
    figure.suptitle("\n".join(heading), fontsize=10)
    return figure


def _caption(case: Explained, values: np.ndarray, end: float | None, alone: bool, letters: int) -> list[str]:
    """The lines above one part: with the end of its colours if it has its own, and what went elsewhere if alone."""
    lines = [
        *name_in(case.name, letters),
        *wrapped(case.caption, letters),
        *(wrapped(case.elsewhere, letters) if alone else []),
    ]
    return lines if end is None else [*lines, ends(values, end)]


def draw_picture(axis: Any, picture: np.ndarray, grey: bool, where: dict[str, Any]) -> None:
    """The picture, in pale grey below an overlay."""
    if grey:  # pale, so that both ends of the colours stand out
        axis.imshow(picture.mean(-1), cmap="gray", vmin=-0.8, vmax=1.2, **where)
    else:
        axis.imshow(picture, **where)


def draw_relevance(
    axis: Any, values: np.ndarray, limit: float, colours: Colormap, style: str, where: dict[str, Any]
) -> None:
    """Relevance `[height, width]` on it, in one of the styles."""
    scale: dict[str, Any] = {"cmap": colours, "vmin": -limit, "vmax": limit}
    if style == "contour":
        height, width = values.shape
        at = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        shares = np.array([*(-share for share in reversed(LEVELS)), *LEVELS])
        lines = colours(0.5 + 0.25 * (np.sign(shares) + shares))  # darker than the map has them: they are thin
        reached = (limit * shares > values.min()) & (limit * shares < values.max())
        if reached.any():  # else matplotlib warns, and there is nothing to draw
            axis.contour(*at, values, levels=limit * shares, colors=lines, linewidths=1.2)
    else:
        opacity = np.abs(np.clip(values / limit, -1, 1)) ** 0.5 if style == "overlay" else None
        axis.imshow(values, alpha=opacity, **scale, **where)
