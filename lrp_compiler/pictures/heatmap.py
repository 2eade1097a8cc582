"""Relevance of pixels: signed, symmetric around zero, over the picture or beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import Labels, to_numpy

from .common import choose, drawn, limit_of, note, smoothed
from .figure import COLOURS, Colormap, Picture, colour_bar, diverging

STYLES = ("overlay", "contour", "beside", "plain")
LEVELS = (0.2, 0.5, 0.8)
"""Contours are drawn at these shares of the limit, on both sides."""
COLOURED = (1, 3, 4)
"""Numbers of channels that a picture may have."""


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
    title: str = "",
) -> Picture:
    """Draw the relevance of an image, summed over its channels: one part for each row of the batch.

    With several targets, a row's targets stand side by side.

    Args:
        explanation: of an input `[batch, channels, height, width]`, `[batch, height, width, channels]` or
            `[batch, height, width]`.
        image: what to draw it on, as the network saw it (cropped), at any resolution: a PIL image or an array
            `[height, width]`, `[height, width, 3]` or `[3, height, width]`, or one of these for each row. Default: the
            network's input, scaled to its own range. False: nothing.
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
        title: a first line.

    Raises:
        LrpError: matplotlib is not there.
        InputError: no relevance of an image, an image of another aspect or number, an unknown option.
    """
    if style not in STYLES:
        raise InputError(f"There is no style {style!r}: choose {', '.join(STYLES)}.")
    cases, palette = drawn(explanation, rows, labels), diverging(colours)
    shown = _aggregate(explanation) if aggregate else explanation
    name = choose(shown, input, "an image, [batch, channels, height, width]", _is_image)
    maps = [smoothed(_flat(shown.of(case, name)), smooth, (0, 1)) for case in cases]
    limits = [limit_of(values, percentile, limit) for values in maps]
    order = list(dict.fromkeys(case.row for case in cases))
    pictures = _pictures(image, explanation.run.inputs.get(name), order, maps[0].shape)

    wide = columns or explanation.run.several or min(len(cases), 4)
    each = 2 if style == "beside" else 1
    tall = -(-len(cases) // wide)
    figure = Picture(figsize=(max(2.7 * wide * each, 6.4), 3.3 * tall + 1.5), layout="constrained")
    axes = figure.subplots(tall, wide * each, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    parts = axes.reshape(-1, each)
    for part, case, values, end in zip(parts, cases, maps, limits, strict=False):
        picture = pictures[order.index(case.row)]
        where: dict[str, Any] = {"extent": (0, values.shape[1], values.shape[0], 0)}
        if picture is not None and style != "plain":
            _draw_picture(part[0], picture, grey=style == "overlay", where=where)
        _draw_relevance(part[-1], values, end, palette, style if picture is not None else "plain", where)
        name_lines = textwrap.wrap(case.name, 40)[:2]
        ends = [f"colours end at ±{end:.2g}"] if limit is None else []
        part[-1].set_title("\n".join([*name_lines, *textwrap.wrap(case.caption, 44), *ends]), fontsize=8.5)
    colour_bar(figure, axes, palette, limits)
    summed = f"a score: relevance summed over {', '.join(explanation.run.about.aggregate)}" if aggregate else ""
    lines = [title, explanation.run.heading, summed, note(percentile, limit, smooth, "pixels")]
    figure.suptitle("\n".join(filter(None, lines)), fontsize=10)
    return figure


def _aggregate(explanation: Results[Any]) -> Results[Any]:
    """With what is summed over values of the network in place of relevance."""
    if not explanation.aggregate:
        raise InputError("Nothing is summed over values of the network here: compile with aggregate=.")
    return replace(explanation, relevance=explanation.aggregate)


def _is_image(shape: tuple[int, ...], dtype: str) -> bool:
    return len(shape) == 3 or (len(shape) == 2 and "int64" not in dtype)


def _flat(values: np.ndarray) -> np.ndarray:
    """`[height, width]`: the channels added up."""
    values = values.astype(np.float64)
    return values if values.ndim == 2 else values.sum(_channel_axis(values.shape))


def _channel_axis(shape: tuple[int, ...]) -> int:
    return -1 if shape[-1] in COLOURED and shape[0] not in COLOURED else 0


def _pictures(image: Any, seen: Any, rows: Sequence[int], shape: tuple[int, ...]) -> Sequence[np.ndarray | None]:
    """For each row a picture `[height, width, 3]` in [0, 1], or None."""
    if image is False or (image is None and seen is None):
        return [None] * len(rows)
    if image is None:
        whole = to_numpy(seen)
        given = [whole[row] for row in rows]
        channels = 1 if given[0].ndim == 2 else given[0].shape[_channel_axis(given[0].shape)]
        return [_picture(one, shape) if channels in COLOURED else None for one in given]
    several = isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4
    images = list(image) if several else [image]
    if len(images) != len(rows):
        raise InputError(
            f"{len(rows)} row{'s are' if len(rows) > 1 else ' is'} drawn, on {len(images)}: give one each."
        )
    return [_picture(one, shape) for one in images]


def _picture(image: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = to_numpy(image)
    if array.ndim == 3 and _channel_axis(array.shape) == 0:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[-1] not in COLOURED:
        raise InputError(f"An image is [height, width], [height, width, 3] or [3, height, width], not {array.shape}.")
    height, width = array.shape[:2]
    if abs(height * shape[1] / (width * shape[0]) - 1) > 0.02:
        raise InputError(
            f"The image is {width} × {height}, relevance {shape[1]} × {shape[0]}: crop it as the network saw it."
        )
    colour = array[..., :3].astype(np.float64)
    if array.dtype == np.uint8:
        colour /= 255
    elif colour.min() < 0 or colour.max() > 1:
        colour = (colour - colour.min()) / (np.ptp(colour) or 1)
    return np.broadcast_to(colour, (height, width, 3))


def _draw_picture(axis: Any, picture: np.ndarray, grey: bool, where: dict[str, Any]) -> None:
    if grey:  # pale, so that both ends of the colours stand out
        axis.imshow(picture.mean(-1), cmap="gray", vmin=-0.8, vmax=1.2, **where)
    else:
        axis.imshow(picture, **where)


def _draw_relevance(
    axis: Any, values: np.ndarray, limit: float, colours: Colormap, style: str, where: dict[str, Any]
) -> None:
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
