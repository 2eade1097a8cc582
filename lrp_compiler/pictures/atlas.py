"""The atlas of concepts: a row for each channel, with the samples that most use it and where. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .common import limit_of, smoothed, wrapped
from .figure import COLOURS, PHONE, POINTS, Colormap, Picture, diverging
from .heatmap import draw_picture, draw_relevance

GAP, LINE, TEXT = 0.06, 0.24, 72
"""Inches between parts, and of a line; characters on one."""


@dataclass(frozen=True)
class Seen:
    """A picture, and what of it relevance passes a channel for.

    Args:
        picture: `[height, width, 3]` in [0, 1], at any resolution.
        relevance: `[height, width]`.
        box: left, top, right, bottom of what is shown, in elements of relevance; None: all.
    """

    picture: np.ndarray
    relevance: np.ndarray
    box: tuple[int, int, int, int] | None = None


def atlas(
    rows: Sequence[tuple[str, Sequence[Seen]]],
    heading: str,
    *,
    smooth: float,
    percentile: float = 99.5,
    colours: str | Colormap = COLOURS,
) -> Picture:
    """Draw the rows: below each caption pictures side by side in colour, and below each its relevance.

    Args:
        rows: caption → what stands in the row, the explained picture first.
        heading: above all of them.
        smooth: standard deviation of a Gaussian, in elements, that relevance is smoothed by.
        percentile: the colours of each part end at this percentile of |relevance|.
        colours: a diverging colour map of matplotlib.
    """
    palette, wide = diverging(colours), max(len(seen) for _, seen in rows)
    side = (PHONE - GAP * (wide + 1)) / wide
    lines = wrapped(heading, TEXT)
    foot = wrapped("below each picture: red speaks for the target through this channel alone, blue against it", TEXT)
    block = LINE + 2 * side + 3 * GAP
    height = LINE * (len(lines) + len(foot)) + 3 * GAP + block * len(rows)
    figure = Picture(figsize=(PHONE, height))

    def written(text: str, top: float, **options: Any) -> None:
        figure.text(GAP / PHONE, 1 - top / height, text, va="top", ha="left", **{"fontsize": POINTS, **options})

    written("\n".join(lines), GAP, linespacing=1.3)
    top = GAP + LINE * len(lines)
    for caption, seen in rows:
        written(caption, top + GAP, fontweight="bold")
        for column, one in enumerate(seen):
            left = (GAP + column * (side + GAP)) / PHONE
            values = smoothed(one.relevance, smooth, (0, 1))
            place: dict[str, Any] = {"extent": (0, values.shape[1], values.shape[0], 0)}
            for below in range(2):
                under = top + LINE + GAP + side + below * (side + GAP / 2)
                axis = figure.add_axes((left, 1 - under / height, side / PHONE, side / height))
                draw_picture(axis, one.picture, grey=bool(below), where=place)
                if below:
                    draw_relevance(axis, values, limit_of(values, percentile), palette, "overlay", place)
                if one.box is not None:
                    axis.set(xlim=one.box[::2], ylim=one.box[:0:-2])
                axis.set(xticks=[], yticks=[])
                for spine in axis.spines.values():
                    spine.set(linewidth=1.5 if column == 0 else 0, color="black")
        top += block
    written("\n".join(foot), top + GAP, linespacing=1.3)
    return figure


def looked_at(relevance: np.ndarray, share: float) -> tuple[int, int, int, int]:
    """The square that holds most of what speaks for it: left, top, right, bottom.

    Args:
        relevance: `[height, width]`.
        share: how long its side is, as a share of the shorter one.
    """
    height, width = relevance.shape
    side = max(1, min(round(share * min(height, width)), height, width))
    sums = np.pad(np.maximum(relevance, 0).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = (int(at) for at in np.unravel_index(inside.argmax(), inside.shape))
    return left, top, left + side, top + side
