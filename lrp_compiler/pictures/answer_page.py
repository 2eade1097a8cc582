"""The page of an explained answer: one file, offline; what is pointed at in the answer lights its sources."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrp_compiler.base.run import number

from .offline import offline_page
from .token_rows import shown

DIGITS = 4
LEGEND = (
    'Point at the answer, or tap it: <span class="for">speaks for it</span> <span class="against">against it</span>. '
    'The <span class="start">first token</span> of the text, on which attention rests, is left out of the scale.'
)
PERCENTILE = 99.5
"""Colours end at this percentile of |relevance|, the first token apart: it would outshine all others."""


def answer_page(explanation: Any, title: str = "") -> str:
    """The page.

    Args:
        explanation: an `AnswerExplanation` of whatever level.
        title: in the heading; default: that it is an answer.
    """
    main = (
        '<section aria-label="Facts" id="facts" aria-live="polite"></section>'
        '<section><h2>Answer</h2><div id="answer" class="text" dir="auto"></div></section>'
        '<section><h2>Prompt</h2><div id="prompt" class="text" dir="auto"></div></section>'
    )
    name = title or "Which tokens made this answer?"
    return offline_page(name, _heading(explanation), LEGEND, main, _data(explanation), ("answer.css",), "answer.js")


def _heading(explanation: Any) -> str:
    hops = f", {explanation.hopped} hop{'s' * (explanation.hopped != 1)} through the answer" * bool(explanation.hopped)
    return f"{explanation.heading}{hops}; by {explanation.level}"


def _data(explanation: Any) -> dict[str, Any]:
    """What the page shows; the last row is the whole answer."""
    matrix = np.vstack([explanation.matrix, explanation.matrix.sum(0)])
    first = explanation.first
    rows = [[piece.text, list(piece.tokens)] for piece in explanation.rows]
    named = [*explanation.rows, None]
    scores = [*explanation.scores, explanation.scores.sum()]
    absorbed = [*explanation.absorbed, explanation.absorbed.sum()]
    return {
        "rows": [
            {
                "name": "the whole answer" if piece is None else f"“{shown(piece.text, piece.starts_word)}”",
                "values": [_short(value) for value in values],
                "limit": _short(_limit(values, first)),
                "facts": [
                    ["score", number(float(score))],
                    ["Σ relevance", number(float(values.sum()))],
                    ["absorbed", number(float(left))],
                    ["first token", number(float(values[first].sum()))],
                ],
            }
            for piece, values, score, left in zip(named, matrix, scores, absorbed, strict=True)
        ],
        "columns": [_column(piece, at in first, rows) for at, piece in enumerate(explanation.columns)],
    }


def _column(piece: Any, first: bool, rows: list[list[Any]]) -> dict[str, Any]:
    of = next((at for at, (_, tokens) in enumerate(rows) if set(tokens) & set(piece.tokens)), -1)
    return {
        "text": shown(piece.text, piece.starts_word),
        "space": piece.starts_word,
        "breaks": piece.text.count("\n"),
        "part": piece.part,
        "special": piece.special,
        "first": first,
        "row": of if piece.part == "answer" else -1,
    }


def _limit(values: np.ndarray, first: list[int]) -> float:
    others = np.abs(np.delete(values, first))
    others = others[others > 0]
    return float(np.percentile(others, PERCENTILE)) if len(others) else 1.0


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
