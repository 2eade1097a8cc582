"""Tokens as running text in boxes, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from .common import mixed, wrapped
from .figure import FancyBboxPatch, FontProperties, Picture, TextPath, families
from .token_rows import Piece, TokenRow, scale_of

MARGIN, LINE, BOX, GAP = 12.0, 34.0, 29.0, 4.0
"""In points, of which 72 are an inch: around all, from line to line, a box's height, between words."""
TEXT, SMALL = 11.0, 7.0


WIDTH, WIDEST, TALL = 10.0, 40.0, 1.4
"""In inches, of a picture whose width nobody chose: it grows with the text, to stay no taller than so many widths."""


class _Box(NamedTuple):
    left: float
    top: float
    width: float
    piece: Piece


class _Page(NamedTuple):
    width: float
    height: float
    texts: list[tuple[float, str, float]]
    boxes: list[tuple[TokenRow, list[_Box]]]


def token_figure(rows: Sequence[TokenRow], title: str, width: float | None) -> Picture:
    """One paragraph for each row, its caption above it."""
    page = _laid_out(rows, title, width or WIDTH)
    while width is None and page.height > 72 * TALL * page.width and page.width < WIDEST:
        page = _laid_out(rows, title, page.width * 1.2)
    figure = Picture(figsize=(page.width, page.height / 72))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 72 * page.width), ylim=(page.height, 0))
    axis.set_axis_off()
    for at, line, size in page.texts:
        axis.text(MARGIN, at, line, fontsize=size, va="top")
    for row, placed in page.boxes:
        for box in placed:
            _draw(axis, box, row)
    return figure


def _laid_out(rows: Sequence[TokenRow], title: str, width: float) -> _Page:
    """Where everything goes on a page of that width, in inches."""
    edge = 72 * width - MARGIN
    heads = [title, f"{rows[0].heading}; red speaks for the target, blue against it; {scale_of(rows)}"]
    top = MARGIN
    texts, boxes = [], []
    for line in wrapped("\n".join(heads), int(edge / 6)):
        texts.append((top, line, 12.0))
        top += 17
    for row in rows:
        top += 12
        for line in wrapped(row.caption, int(edge / 6)):
            texts.append((top, line, 10.0))
            top += 14
        top += 4
        placed, top = _placed(row.pieces, top, edge)
        boxes.append((row, placed))
    return _Page(width, top + MARGIN, texts, boxes)


def _placed(pieces: Sequence[Piece], top: float, edge: float) -> tuple[list[_Box], float]:
    """Where the boxes go, from left to right in lines, and where the last line ends."""
    boxes, left = [], MARGIN
    for piece in pieces:
        size = 8 + max(_width(piece.shown, TEXT), _width(_value(piece), SMALL))
        gap = GAP if piece.starts_word else 1.0
        if left + gap + size > edge and left > MARGIN:
            left, top = MARGIN, top + LINE
        boxes.append(_Box(left + gap, top, size, piece))
        left += gap + size
        if "\n" in piece.text:
            left, top = MARGIN, top + LINE
    return boxes, top + LINE * (left > MARGIN)


def _draw(axis: Any, box: _Box, row: TokenRow) -> None:
    colour = tuple(part / 255 for part in mixed(row.strength(box.piece)))
    middle = box.left + box.width / 2
    corner, style = (box.left, box.top), "round,pad=0,rounding_size=3"
    axis.add_patch(FancyBboxPatch(corner, box.width, BOX, boxstyle=style, fc=colour, ec="#bbbbbb", lw=0.4))
    slant = "italic" if box.piece.special else "normal"
    centred = {"ha": "center", "va": "center", "color": "black"}
    axis.text(middle, box.top + 10.5, box.piece.shown, fontsize=TEXT, style=slant, **centred)
    axis.text(middle, box.top + 22.5, _value(box.piece), fontsize=SMALL, **centred)


def _value(piece: Piece) -> str:
    return f"{piece.relevance:+.2g}"


@lru_cache(10_000)
def _width(text: str, size: float) -> float:
    # A path, unlike a text, cannot be told that a `$` is no formula.
    font = FontProperties(family=list(families(text)))
    return float(TextPath((0, 0), text.replace("$", r"\$"), size=size, prop=font).get_extents().width)
