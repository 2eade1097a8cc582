"""A graph in layers: spots in rows, lines between them. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.patches import Ellipse

from lrp_compiler.base.run import number

from .common import wrapped
from .figure import COLOURS, PHONE, POINTS, Picture, diverging

ROW, LINE, EDGE, GAP, BELOW, ABOVE = 1.15, 0.6, 0.2, 0.06, 0.45, 0.5
"""Inches between rows, lines of a row, at the sides, between spots, below the first row's middle, above the last's."""
LABEL = 9
"""Points of what a spot is called: as wide as a phone that is 7.6 of its pixels."""


@dataclass(frozen=True)
class Spot:
    """A node.

    Args:
        row: from below.
        label: what it is called.
        strength: its colour.
        pale: whether it stands for others.
    """

    row: int
    label: str
    strength: float
    pale: bool = False


@dataclass(frozen=True)
class Line:
    """An edge between the spots of these names."""

    lower: str
    upper: str
    strength: float


@dataclass(frozen=True)
class Drawing:
    """All of it: names of the rows from below, spots by name in the order from the left, and lines."""

    rows: Sequence[str]
    spots: Mapping[str, Spot]
    lines: Sequence[Line]


def circuit(drawing: Drawing, heading: str) -> Picture:
    """Draw it."""
    palette, lines = diverging(COLOURS), wrapped(heading, 72)
    places, tall = _placed(drawing)
    height = tall + ABOVE + 0.26 * len(lines)
    figure = Picture(figsize=(PHONE, height))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, PHONE), ylim=(0, height))
    axis.set_axis_off()
    figure.text(EDGE / 2 / PHONE, 1 - 0.1 / height, "\n".join(lines), va="top", fontsize=POINTS, linespacing=1.3)
    widest = _largest((drawing.spots[line.lower].row, line.strength) for line in drawing.lines)
    for line in sorted(drawing.lines, key=lambda one: abs(one.strength)):
        (x0, y0), (x1, y1) = places[line.lower], places[line.upper]
        size = abs(line.strength) / widest[drawing.spots[line.lower].row]
        colour = palette(0.5 + 0.42 * np.sign(line.strength))
        axis.plot([x0, x1], [y0, y1], color=colour, alpha=0.25 + 0.75 * size, linewidth=0.6 + 6 * size, zorder=1)
    most = _largest((spot.row, spot.strength) for spot in drawing.spots.values())
    said: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": LABEL, "zorder": 3}
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for name, spot in drawing.spots.items():
        x, y = places[name]
        face = palette(0.5 + 0.3 * float(np.clip(spot.strength / most[spot.row], -1, 1)))
        style: dict[str, Any] = {"linestyle": ":" if spot.pale else "-", "edgecolor": "black", "linewidth": 0.9}
        axis.add_patch(Ellipse((x, y), _width(spot), 0.34, facecolor=face, zorder=2, **style))
        axis.text(x, y, spot.label, **said)
        axis.text(x, y - 0.27, number(spot.strength), color="0.2", bbox=behind, **said)
    for row, name in enumerate(drawing.rows):
        highest = max((places[one][1] for one, spot in drawing.spots.items() if spot.row == row), default=None)
        if name and highest is not None:
            style = {"va": "center", "fontsize": POINTS, "zorder": 3, "fontweight": "bold", "bbox": behind}
            axis.text(EDGE / 2, highest + 0.33, name, **style)
    return figure


def _largest(strengths: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Row → the largest size in it; 1 where all are 0: what little reaches a row is seen as well as what is above."""
    found: dict[int, float] = {}
    for row, strength in strengths:
        found[row] = max(found.get(row, 0.0), abs(strength))
    return {row: size or 1.0 for row, size in found.items()}


def _placed(drawing: Drawing) -> tuple[dict[str, tuple[float, float]], float]:
    """Where the middle of each spot is, in inches, and how tall all rows are; spots that need more room than a row has
    stand in several lines."""
    places, y, room = {}, BELOW, PHONE - 2 * EDGE
    for row in range(len(drawing.rows)):
        lines: list[list[str]] = [[]]
        for name in (name for name, spot in drawing.spots.items() if spot.row == row):
            taken = sum(_width(drawing.spots[one]) + GAP for one in [*lines[-1], name])
            if taken > room and lines[-1]:
                lines.append([])
            lines[-1].append(name)
        for above, own in enumerate(reversed(lines)):
            free = (room - sum(_width(drawing.spots[name]) for name in own)) / max(len(own), 1)
            x = EDGE
            for name in own:
                wide = _width(drawing.spots[name]) + max(free, 0)
                places[name] = x + wide / 2, y + above * LINE
                x += wide
        y += (len(lines) - 1) * LINE + ROW
    return places, y - ROW


def _width(spot: Spot) -> float:
    """Of a spot, in inches: its label fits."""
    return max(0.5, 0.085 * len(spot.label) + 0.18)
