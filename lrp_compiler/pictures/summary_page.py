"""The page of a data set's explanations: one file, offline, no script; class by class what they have in common."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from lrp_compiler.base.counted import counted
from lrp_compiler.base.run import number

from .common import ends, limit_of
from .image import Image, coloured
from .token_rows import shown

PERCENTILE = 99.5
"""Where a map's colours end, of |relevance|."""
SECTIONS = 100
"""Classes that are shown, at most; the table has all."""
BARS = 24
"""Numbers of a row, such as features, that are listed, at most."""
APART = (
    "Groups are of alike maps, read off a graph of nearest neighbours (spectral relevance analysis). Apart: how much "
    "nearer a map is to its own group than to the next one, 1 at most. A group may be a strategy of its own: something "
    "that stands in for the class."
)


def summary_page(summary: Any, done: bool) -> str:
    """The page.

    Args:
        summary: a `Summary`.
        done: whether all of the data were explained.
    """
    style = files("lrp_compiler").joinpath("web", "summary.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'"
    rows = counted(summary.rows, "row") + ("" if done else " so far: the job has not ended")
    said = f"Relevance of {escape(summary.input)}, composite {escape(summary.composite)}; {rows}."
    legend = '<span class="red">Red speaks for</span> the class, <span class="blue">blue against</span> it.'
    content = f"{_overview(summary.classes)}\n{''.join(map(_section, summary.classes[:SECTIONS]))}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>What the explanations have in common</title><style>{style}</style></head>\n<body>"
        f"<header><h1>What the explanations have in common</h1><p>{said} {legend} After ± stands half of a mean's 95 % "
        f"interval.</p></header>\n{content}</body></html>\n"
    )


def _overview(classes: Sequence[Any]) -> str:
    """The classes in a table."""
    grouped = any(one.groups for one in classes)
    known = any(one.absorbed is not None for one in classes)
    heads = ["class", "rows", *["groups", "apart"] * grouped, "Σ relevance", *["absorbed"] * known]
    lines = []
    for place, one in enumerate(classes):
        absorbed = ["" if one.absorbed is None else number(one.absorbed)] * known
        groups = [str(len(one.groups) or ""), f"{one.apart:.2f}" if len(one.groups) > 1 else ""] * grouped
        link = f'<a href="#c{one.number}">{escape(one.name)}</a>' if place < SECTIONS else escape(one.name)
        cells = [link, f"{one.rows:,}", *groups, _mean(*one.relevance), *absorbed]
        lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    note = f"<p>{APART}</p>" * grouped
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    head = "".join(f"<th>{head}</th>" for head in heads)
    return f'<section class="wide"><table><tr>{head}</tr>{body}</table>{note}</section>'


def _section(one: Any) -> str:
    absorbed = "" if one.absorbed is None else f"; absorbed {number(one.absorbed)}"
    facts = f"{counted(one.rows, 'row')}, Σ relevance {_mean(*one.relevance)}{absorbed}"
    parts = [f'<section id="c{one.number}"><h2>{escape(one.name)}</h2><p>{facts}</p>']
    if one.mean is not None:
        parts.append(_places(one))
    elif one.tokens_for or one.tokens_against:
        largest = max(abs(token.mean) + token.margin for token in (*one.tokens_for, *one.tokens_against))
        sides = (("speak for it", one.tokens_for), ("speak against it", one.tokens_against))
        columns = "".join(
            f"<div><h3>Tokens that {side}</h3><ol>"
            + "".join(_bar(shown(token.token, True), token.mean, token.margin, largest, token.rows) for token in tokens)
            + "</ol></div>"
            for side, tokens in sides
        )
        parts.append(f'<div class="columns">{columns}</div>')
    else:
        parts.append("<p>No token's interval lies on one side of 0.</p>")
    return "".join([*parts, _groups(one), _outliers(one), "</section>\n"])


def _places(one: Any) -> str:
    """The mean of every place: a picture, or of a row of numbers bars."""
    single = one.rows == 1
    if one.mean.ndim == 2:
        what = "Its only row" if single else "Mean of all rows"
        return f'<h3>{what}</h3><div class="maps">{_figure(one.mean, "", "large")}</div>'
    order = np.argsort(-np.abs(one.mean), kind="stable")[:BARS]
    margin = np.where(np.isfinite(one.margin), one.margin, 0)
    largest = float((np.abs(one.mean) + margin).max()) or 1.0
    bars = "".join(_bar(f"number {place}", float(one.mean[place]), float(margin[place]), largest) for place in order)
    what = "Every number" if single else "Mean of every number"
    return f'<h3>{what}, the largest first</h3><ol class="columns">{bars}</ol>'


def _groups(one: Any) -> str:
    if not one.groups or one.rows == 1:  # the mean of a single row shows it
        return ""
    title = (
        f"{len(one.groups)} groups of alike maps, each with its most typical rows"
        if len(one.groups) > 1
        else "One group, with its most typical rows: the maps do not fall apart"
    )
    rows = "".join(
        '<div class="maps">'
        + _figure(group.mean, f"group {place}: {group.share:.0%} of the maps; its mean", "group")
        + "".join(_figure(values, f"row {id}") for id, values in group.examples)
        + "</div>"
        for place, group in enumerate(one.groups, start=1)
    )
    return f"<h3>{title}</h3>{rows}"


def _outliers(one: Any) -> str:
    if not one.outliers:
        return ""
    figures = "".join(_figure(values, f"row {id}") for id, values in one.outliers)
    return f'<h3>Rows unlike all others</h3><div class="maps">{figures}</div>'


def _figure(values: np.ndarray, caption: str, kind: str = "") -> str:
    whole = values if values.ndim == 2 else values.reshape(1, -1)
    limit = limit_of(whole, PERCENTILE)
    said = f"{escape(caption)}{'; ' * bool(caption)}{ends(whole, limit)}"
    pixels = np.rint(coloured(np.clip(whole / limit, -1, 1))).astype(np.uint8)
    source = base64.b64encode(Image(pixels, caption).png()).decode()
    alt = escape(f"heatmap {caption}", quote=True)
    return (
        f'<figure class="{kind}"><img src="data:image/png;base64,{source}" alt="{alt}">'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _bar(name: str, mean: float, margin: float, largest: float, rows: int | None = None) -> str:
    """A line with a bar, and a stroke over the interval."""
    size, kind = 100 * abs(mean) / largest, "for" if mean > 0 else "against"
    low, high = (max(0.0, min(100.0, 100 * (abs(mean) + sign * margin) / largest)) for sign in (-1, 1))
    count = "" if rows is None else f", {counted(rows, 'row')}"
    bar = f'<rect class="{kind}" width="{size:.1f}%" height="100%"/>'
    stroke = f'<line x1="{low:.1f}%" x2="{high:.1f}%" y1="50%" y2="50%"/>'
    head = f"<div><b>{escape(name)}</b><span>{_mean(mean, margin)}{count}</span></div>"
    return f'<li>{head}<svg role="img" aria-label="{number(mean)}">{bar}{stroke}</svg></li>'


def _mean(mean: float, margin: float) -> str:
    return number(mean) + (f" ± {margin:.2g}" if np.isfinite(margin) else "")
