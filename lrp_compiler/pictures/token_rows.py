"""The tokens of a row and their relevance, as data."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.run import Explained, number

from .common import BLUE, NOTHING, RED, STRONGEST, mixed
from .offline import written

_SHOWN = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters: a token must not steer the terminal, or turn the text around."""


class Piece(NamedTuple):
    """A token, or a word."""

    text: str
    relevance: float
    ids: tuple[int, ...]
    starts_word: bool
    special: bool

    @property
    def shown(self) -> str:
        """The text with nothing invisible in it."""
        return shown(self.text, self.starts_word)


def shown(text: str, starts_word: bool) -> str:
    """The text of a token with nothing invisible in it."""
    if not text.strip(" "):
        return "␣"
    text = text if starts_word else text.removeprefix("##")
    return _HIDDEN.sub(lambda found: _SHOWN.get(found[0], f"\\x{ord(found[0]):02x}"), text).strip(" ")


@dataclass(frozen=True, eq=False, repr=False)
class TokenRow(Sequence[tuple[str, float]]):
    """The tokens of one row and their relevance: a sequence of pairs.

    Args:
        case: what is explained, its logit and what all inputs got.
        heading: composite and target.
        pieces: the tokens, or words.
        left_out: what got relevance and is not among the pairs: padding, special tokens.
        limit: the relevance at which the colours end.
    """

    case: Explained
    heading: str
    pieces: tuple[Piece, ...]
    left_out: dict[str, float]
    limit: float

    @overload
    def __getitem__(self, index: int) -> tuple[str, float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, float]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, float] | list[tuple[str, float]]:
        """A (token, relevance) pair."""
        pairs = [(piece.text, piece.relevance) for piece in self.pieces]
        return pairs[index]

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.pieces)

    @property
    def caption(self) -> str:
        """Target, logit, Σ relevance, and what is not shown."""
        shares = [f"{name} {number(share)}" for name, share in self.left_out.items()]
        return f"{self.case.name}: {self.case.caption}" + f" (not shown: {', '.join(shares)})" * bool(shares)

    @boundary("write the page")
    def html(self, path: str | os.PathLike[str] | None = None, *, numbers: bool = True, title: str = "") -> str:
        """A fragment of HTML with everything in it, escaped; it takes text and background from the page around it.

        Args:
            path: where to write a whole page with it; None: nowhere.
            numbers: write the relevance below each token.
            title: of that page.

        Returns:
            The fragment, or the page that was written.

        Raises:
            InputError: an argument of a wrong kind.
            OSError: the folder is not there, or cannot be written to.
        """
        return fragment_or_page(self._fragment(numbers) if path is None else page_of([self], numbers), path, title)

    def _fragment(self, numbers: bool) -> str:
        spans = "".join(self._span(piece, numbers) for piece in self.pieces)
        return (
            f'<div><p style="margin:.6em 0 .3em">{html.escape(self.caption)}</p><div dir="auto" style="display:flex;'
            f'flex-wrap:wrap;row-gap:.35em;line-height:1.25">{spans}</div></div>'
        )

    def ansi(self) -> str:
        """For a terminal of 24-bit colours: dark text on red or blue, the caption below."""
        pieces = (" " * (piece.starts_word and at > 0) + self._coloured(piece) for at, piece in enumerate(self.pieces))
        return f"{''.join(pieces)}\n{_HIDDEN.sub('', self.caption)}"

    def __repr__(self) -> str:
        """The pairs."""
        return f"{type(self).__name__}({list(self)})"

    def _repr_html_(self) -> str:
        return page_of([self])

    def strength(self, piece: Piece) -> float:
        """From −1 to 1."""
        return float(np.clip(piece.relevance / self.limit, -1, 1))

    def _span(self, piece: Piece, numbers: bool) -> str:
        strength = self.strength(piece)
        red, green, blue = RED if strength > 0 else BLUE
        parts = {
            "background": f"rgba({red},{green},{blue},{STRONGEST * abs(strength):.3f})",
            "padding": ".1em .3em",
            "border-radius": ".25em",
            "text-align": "center",
            "margin-left": ".3em" if piece.starts_word else "1px",
            "font-style": "italic" if piece.special else "inherit",
        }
        style = ";".join(f"{name}:{value}" for name, value in parts.items())
        value = f"{piece.relevance:+.2g}"
        below = f'<span style="display:block;font-size:.65em">{value}</span>' if numbers else ""
        hint = html.escape(f"{value}, id {', '.join(map(str, piece.ids))}")
        return f'<span title="{hint}" style="{style}">{html.escape(piece.shown)}{below}</span>'

    def _coloured(self, piece: Piece) -> str:
        return f"\x1b[38;2;0;0;0m\x1b[48;2;{';'.join(map(str, mixed(self.strength(piece))))}m{piece.shown}\x1b[0m"


def scale_of(rows: Sequence[TokenRow]) -> str:
    """Where the colours of the rows end, in words."""
    limits = {row.limit for row in rows}
    if not any(piece.relevance for row in rows for piece in row.pieces):
        return NOTHING
    return f"colours end at ±{limits.pop():.3g}" if len(limits) == 1 else "colours are scaled for each row"


def page_of(rows: Sequence[TokenRow], numbers: bool = True) -> str:
    """The rows as HTML below one another, under one heading."""
    colours = (
        f'<span style="background:rgba({red},{green},{blue},{STRONGEST});padding:0 .3em">{word}</span>'
        for (red, green, blue), word in ((RED, "speaks for the target"), (BLUE, "against it"))
    )
    heading = html.escape(rows[0].heading) if rows else ""
    scale = scale_of(rows) if rows else ""
    return (
        f"<div><p>{heading} · {' '.join(colours)} · {scale}</p>{''.join(row._fragment(numbers) for row in rows)}</div>"
    )


def fragment_or_page(fragment: str, path: str | os.PathLike[str] | None, title: str) -> str:
    """The fragment itself, or, where there is a path to write to, the page around it, which is written."""
    if path is None:
        return fragment
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title or 'Which tokens speak for the target?')}</title></head>\n"
        f'<body style="font-family:system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em">'
        f"{f'<h1>{html.escape(title)}</h1>' if title else ''}{fragment}</body></html>\n"
    )
    return written(page, path)
