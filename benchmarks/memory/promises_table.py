"""The tables of promises.py, made from its rows alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.memory.promises_rows import BUDGETS, BYTES, PAPER, SHAPES, SIZES


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    intro = "# Promises\n\nWritten by `python -m benchmarks.memory.promises`; its docstring says what the columns mean."
    return (
        "\n\n".join([intro, *(part for part in (paper_table(rows), bytes_table(rows), time_table(rows)) if part)])
        + "\n"
    )


def table(title: str, columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    body = ["| " + " | ".join(line) + " |" for line in lines]
    head = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return "\n".join([f"## {title}", "", *head, *body]) if body else ""


def paper_table(rows: dict[str, dict[str, Any]]) -> str:
    from benchmarks.networks.architectures import ARCHITECTURES

    lines = []
    for name, row in chosen(rows, "paper", PAPER):
        strict, left = row["strict"], row["left"]
        ours = ("promises", "internal", "delta")
        published = [*map(str, row["published"][:3]), f"{row['published'][3]:.3f}", str(row["published"][4])]
        mine = [*(str(strict[key]) for key in ours), f"{strict['rho']:.3f}", str(strict["total"])]
        pairs = [f"{a} / {b}" for a, b in zip(published, mine, strict=True)]
        lines.append([ARCHITECTURES[name].title, *pairs, str(left["kept"]), str(left["rebuilt"])])
    columns = ("", "promises", "internal nodes", "δ", "ρ", "total nodes", "after elision: kept", "rebuilt (views)")
    return table("The paper's Table 4: published / strict policy on our graph", columns, lines)


def bytes_table(rows: dict[str, dict[str, Any]]) -> str:
    from benchmarks.networks.published import PUBLISHED

    lines, notes = [], []
    for name, row in chosen(rows, "bytes", BYTES):
        cells = [PUBLISHED[name].title, row["composite"], size(row["segments"]["1.0"]["saved"])]
        cells += [size(row["autograd"]["training"]), size(row["autograd"]["input"])]
        for budget in map(str, BUDGETS):
            cells += [
                f"{size(row[planner][budget]['saved'])} ({size(row[planner][budget]['held'])})" for planner in OURS
            ]
        lines.append(cells)
        largest = ", ".join(f"{op} {size(nbytes)}" for op, nbytes in row["largest"].items())
        notes.append(f"- {PUBLISHED[name].title}: {verdict(row)} {WHY.get(name, '')} Most of what is kept: {largest}.")
    columns = ["", "composite", "kept by default", "autograd, training", "autograd, input alone"]
    for budget in BUDGETS:
        columns += [f"ours at {budget:g}", f"min-cut at {budget:g}"]
    text = table("Kept MB: saved by the forward (held at once, with what is rebuilt)", columns, lines)
    return f"{text}\n\n" + "\n".join(notes) if lines else ""


OURS = ("segments", "min-cut")
WHY = {
    "resnet50": "More than autograd: the stabilised residual additions ask for both operands and the result, which a "
    "budget below 1 rebuilds from them.",
    "vit_b_16": "More than autograd for the input alone, which computes the pattern of attention again (its fused "
    "attention saves neither scores nor softmax); a smaller budget does that too.",
    "bert": "More than autograd for the input alone, which computes the pattern of attention again (its fused "
    "attention saves neither scores nor softmax); a smaller budget does that too.",
}
"""Where the default policy keeps more than autograd saves."""


def verdict(row: dict[str, Any]) -> str:
    """Whether the row holds what is asked of it, and why not."""
    found = []
    for what, key in (("training", "training"), ("the input's gradient", "input")):
        share = row["segments"]["1.0"]["saved"] / row["autograd"][key]
        found.append(f"{share:.2f} × what autograd saves for {what}")
    for budget in map(str, BUDGETS):
        ours, theirs = row["segments"][budget], row["min-cut"][budget]
        if ours["saved"] > theirs["saved"]:
            limit = float(budget) * row["segments"]["1.0"]["held"]
            held = f"held at once it is {size(ours['held'])} against {size(theirs['held'])}"
            over = ", over its budget" if theirs["held"] > limit * 1.0001 else ""
            found.append(f"at {budget} min-cut saves less because it takes rebuilding for free: {held}{over}")
    return "; ".join(found) + "."


def time_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for shape, row in chosen(rows, "time", SHAPES):
        fit = row["fit"]
        line = f"{fit['microseconds_per_value']:.1f} µs · n {fit['milliseconds']:+.1f} ms, R² = {fit['r_squared']:.4f}"
        lines.append([shape, *(f"{seconds:.3f}" for seconds in row["seconds"].values()), line])
    return table("Planning, seconds of CPU", ("", *(f"{n // 1000}k" for n in SIZES), "fit"), lines)


def chosen(rows: dict[str, dict[str, Any]], part: str, names: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, rows[part][name]) for name in names if name in rows.get(part, {}) and "failure" not in rows[part][name]
    ]


def size(nbytes: float) -> str:
    return f"{nbytes / 1e6:.1f}"
