"""What stands in a cell of the tables, and the tables' own form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.speed.cases import CONTENDERS, OURS

MAIN = "2x1"
"""The setting that the targets are stated for: 2 threads, batch 1."""
NOISE = 0.1
"""Cores taken by other processes from which on a row is called noisy; and the spread, as a share of the median."""


def rows_of(found: dict[str, Any], case: str, key: str) -> dict[str, Any]:
    """Contender → what was measured of it in that setting."""
    contenders: dict[str, Any] = found["rows"].get(case, {}).get(key, {}).get("contenders", {})
    return contenders


def noisy(found: dict[str, Any], case: str) -> str:
    """A word for a row that was measured while others used the machine: such a number proves nothing."""
    return " (noisy)" if found["rows"][case][MAIN]["others"] > NOISE else ""


def title(name: str) -> str:
    return CONTENDERS[name].title


def how_much_slower(row: dict[str, Any], name: str) -> float | None:
    """A contender's time as a multiple of our file's, each by the forwards that ran beside it."""
    if "ratio" not in row.get(name, {}) or "ratio" not in row.get(OURS, {}):
        return None
    return float(row[name]["ratio"] / row[OURS]["ratio"])


def faster(row: dict[str, Any], name: str, least: float | None) -> str:
    times = how_much_slower(row, name)
    shown = "fails" if "failure" in row.get(name, {}) else "–" if times is None else f"{times:.1f}×"
    return shown + (f" (≥ {least:g})" if least else "")


def spread(measured: dict[str, Any]) -> float:
    """The quartiles' distance, as a share of the median."""
    low, high = measured["quartiles"]
    return float((high - low) / measured["seconds"])


def duration(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "–"
    if "failure" in measured:
        return "fails"
    low, high = (1e3 * value for value in measured["quartiles"])
    ratio = f" ÷ {milliseconds(beside(measured))} = {measured['ratio']:.2f}" if "ratio" in measured else ""
    return f"{milliseconds(measured['seconds'])} [{low:.0f}–{high:.0f}]{ratio}"


def beside(measured: dict[str, Any]) -> float:
    """Seconds of the forward whose runs alternated with this contender's: what its ratio is of."""
    return float(measured["forward"] if "forward" in measured else measured["seconds"] / measured["ratio"])


def milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def target(value: float | None) -> str:
    return "–" if value is None else f"≤ {value:g}"


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def table(titles: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """Markdown; the first `left` columns are aligned to the left."""
    head = ["| " + " | ".join(titles) + " |", "|" + "---|" * left + "---:|" * (len(titles) - left)]
    return "\n".join([*head, *("| " + " | ".join(line) + " |" for line in lines)]) if lines else ""


def bullets(heading: str, texts: Iterable[str]) -> list[str]:
    listed = [f"- {text}" for text in texts]
    return [heading, "\n".join(listed)] if listed else []
