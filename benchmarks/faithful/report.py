"""What was measured, kept as JSON, and the tables and curves that are made of the rows alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.base import reporting
from benchmarks.faithful.metrics import METRICS, difference, interval
from lrp_compiler.base.files import atomic_path

Row = dict[str, Any]
MARKS = ("<!-- faithfulness: written by benchmarks/faithful/run.py -->", "<!-- end of faithfulness -->")
SHOWN = 8
"""Curves in one picture: the best of ours, the best of the others, and chance."""

# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a row is of: model, metric, method."""
    return row["model"], row["metric"], row["method"]


def read(path: Path) -> dict[str, Any]:
    """What was measured so far: {"machine": …, "rows": […]}."""
    empty: dict[str, Any] = {"machine": {}, "rows": []}
    return empty | (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})


def write(path: Path, found: Mapping[str, Any]) -> None:
    """A line for each row: what changed is what a diff shows."""
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in found["rows"])
    reporting.write(path, f'{{"machine": {json.dumps(found["machine"])},\n"rows": [\n{rows}\n]}}\n')


def put(rows: list[Row], row: Row, order: Sequence[tuple[str, str]]) -> list[Row]:
    """The rows with a new one, over an older one of the same; in the order of (model, method)."""
    rank = {each: at for at, each in enumerate(order)}
    kept = [other for other in rows if key(other) != key(row)]
    return sorted([*kept, row], key=lambda r: (r["metric"] != "flipping", rank.get((r["model"], r["method"]), 1 << 20)))


def groups(rows: Iterable[Row], metric: str | None = None) -> dict[tuple[str, str], list[Row]]:
    """Rows that were measured, by (model, metric)."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "failure" not in row and metric in (None, row["metric"]):
            found.setdefault((row["model"], row["metric"]), []).append(row)
    return found


def best(rows: Iterable[Row], family: str) -> Row | None:
    """The row of the largest ABPC among a family's."""
    mine = [row for row in rows if row["family"] == family]
    return max(mine, key=lambda row: row["abpc"], default=None)


class Chosen(NamedTuple):
    """The best of a family, scored on inputs that it was not chosen on."""

    methods: str
    """One, or two where the halves choose differently."""
    samples: np.ndarray
    """ABPC, `[inputs]`."""
    seconds: float | None
    """Of CPU, to explain all inputs; of two methods the mean."""


def chosen(rows: Iterable[Row], family: str) -> Chosen | None:
    """On each half of the inputs (every other one) the method of the family that is best on the other half."""
    mine = [row for row in rows if row["family"] == family]
    if not mine:
        return None
    every = np.array([row["abpc_samples"] for row in mine])
    best_of = [int(every[:, other::2].mean(1).argmax()) for other in (1, 0)]
    samples = np.empty(every.shape[1])
    for half, at in enumerate(best_of):
        samples[half::2] = every[at, half::2]
    names = dict.fromkeys(mine[at]["method"] for at in best_of)
    seconds = [mine[at].get("seconds") for at in best_of]
    known = [each for each in seconds if each is not None]
    return Chosen(" / ".join(names), samples, sum(known) / len(known) if known else None)


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(titles: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table in markdown, its first `left` columns flush left."""
    rule = ["---" if at < left else "---:" for at in range(len(titles))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *lines))


def number(value: float, bounds: Sequence[float] | None = None, sign: str = "") -> str:
    """A mean, and where it lies with 95 % confidence."""
    shown = f"{value:{sign}.3f}"
    return shown if bounds is None else f"{shown} [{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]"


def summary(found: Mapping[str, Any]) -> str:
    """A line for each model: the best of ours beside the best of the others, and their difference input by input.

    Which is best is chosen on one half of the inputs and scored on the other, and the other way round, on both sides.
    """
    titles = ("model", "inputs", "ours", "ABPC", "best of the others", "ABPC", "difference", "CPU, s", "chance")
    lines = []
    for rows in groups(found["rows"], "flipping").values():
        ours, peer, chance = (chosen(rows, family) for family in ("ours", "peer", "baseline"))
        if ours is None:
            continue
        seed, scored = rows[0]["seed"], number(ours.samples.mean(), interval(ours.samples, rows[0]["seed"]))
        cells = [rows[0]["title"], f"{len(ours.samples):,}", ours.methods, scored]
        if peer:
            seconds = " / ".join("–" if each.seconds is None else f"{each.seconds:.0f}" for each in (ours, peer))
            mean, bounds = difference(ours.samples, peer.samples, seed)
            cells += [peer.methods, number(peer.samples.mean()), number(mean, bounds, sign="+"), seconds]
        else:
            cells += ["–"] * 4
        lines.append([*cells, number(chance.samples.mean()) if chance else "–"])
    return table(titles, lines, left=3)


def answers(found: Mapping[str, Any]) -> str:
    """A sentence: how often the most relevant token lies in the answer, by the best of each."""
    (rows,) = groups(found["rows"], "answer").values()
    kinds = {
        "Ours": [row for row in rows if row["family"] == "ours"],
        "the same rules in a peer": [row for row in rows if "difference" in row],
        "the best of the others": [row for row in rows if row["family"] == "peer" and "difference" not in row],
        "chance": [row for row in rows if row["family"] == "baseline"],
    }
    said = []
    for kind, of in kinds.items():
        if of:
            row = max(of, key=lambda row: row["values"]["top-1"])
            said.append(f"{kind} {number(row['values']['top-1'], row['intervals']['top-1'])} (`{row['method']}`)")
    return (
        f"{rows[0]['title']}, {rows[0]['samples']} answered from their context: how often the most relevant token of "
        f"the prompt is part of the answer. {'; '.join(said)}."
    )


def paired(first: Row, second: Row) -> str:
    """Difference of two methods on the same inputs."""
    mean, bounds = difference(np.array(first["abpc_samples"]), np.array(second["abpc_samples"]), first["seed"])
    return number(mean, bounds, sign="+")


def flipping_table(rows: Sequence[Row]) -> str:
    """All methods of a model, the best first."""
    titles = ("method", "ABPC", "to the best of ours", "4 × accuracy gap", "compr.", "suff.", "CPU, s")
    ours = best(rows, "ours")
    lines = []
    for row in sorted(rows, key=lambda row: -row["abpc"]):
        name = f"**{row['method']}**" if row["family"] == "ours" else row["method"]
        low, high = (4 * bound for bound in row["accuracy_gap_interval"])
        lines.append(
            [
                name + (f" ({row['note']})" if row.get("note") else ""),
                number(row["abpc"], row["abpc_interval"]),
                paired(row, ours) if ours and row is not ours else "",
                number(row["paper_abpc"], (low, high)),
                number(row["comprehensiveness"]),
                number(row["sufficiency"]),
                f"{row['seconds']:.1f}" if "seconds" in row else "",
            ]
        )
    return table(titles, lines)


def values_table(rows: Sequence[Row]) -> str:
    """Any other metric: a column for each of its values."""
    names = list(rows[0]["values"])
    lines = [
        [f"**{row['method']}**" if row["family"] == "ours" else row["method"]]
        + [number(row["values"][name], row["intervals"][name]) for name in names]
        for row in sorted(rows, key=lambda row: -row["values"][names[0]])
    ]
    return table(("method", *names), lines)


def parity_table(rows: Iterable[Row], same: Mapping[str, str]) -> str:
    """Where a peer has the same composite: both figures, and how far apart single inputs are."""
    lines = []
    for (model, _), mine in groups(rows, "flipping").items():
        by_name = {row["method"]: row for row in mine}
        for theirs, name in same.items():
            if theirs in by_name and name in by_name:
                pair = by_name[theirs], by_name[name]
                apart = np.abs(np.subtract(*(row["abpc_samples"] for row in pair)))
                shown = [f"{row['abpc']:.4f}" for row in pair]
                lines.append([model, theirs, name, *shown, f"{np.median(apart):.0e}", f"{apart.max():.0e}"])
    titles = ("model", "peer", "ours", "ABPC, peer", "ABPC, ours", "median difference of an input", "largest")
    return table(titles, lines, left=3) if lines else ""


def markdown(
    found: Mapping[str, Any], same: Mapping[str, str], missing: Mapping[str, Sequence[str]] | None = None
) -> str:
    """All tables; `missing`: methods of each model (by its title) that were not measured yet."""
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    parts = [
        "# Faithfulness",
        "Written by `python -m benchmarks.faithful.run` from `faithfulness.json`; [how it is measured](../README.md). "
        "[…]: 95 % bootstrap intervals over inputs. Bold: ours.",
        f"Measured with {machine}." if machine else "",
        "## The best of each",
        summary(found),
        "ABPC of the predicted class's probability. The best method is chosen on one half of the inputs and scored on "
        "the other, and the other way round, on both sides: two names where the halves choose differently. *CPU, s*: "
        "to explain all inputs, ours and theirs, compilation included.",
    ]
    if parity := parity_table(found["rows"], same):
        parts += ["## The same composite, by others", parity]
    for (model, metric), rows in groups(found["rows"]).items():
        title = METRICS[metric]
        parts += [f"## {rows[0]['title']}: {title}", f"{rows[0]['about']}; {rows[0]['samples']:,} inputs."]
        parts += [flipping_table(rows) if metric == "flipping" else values_table(rows)]
        if metric == "flipping":
            parts += [f"![Curves of {rows[0]['title']}]({picture_name(model)})"]
    if missing:
        parts += ["## Not measured yet", *(f"- {title}: {', '.join(names)}" for title, names in missing.items())]
    failures = [row for row in found["rows"] if "failure" in row]
    if failures:
        parts += ["## What could not be run", *(f"- {r['model']}, {r['method']}: {r['failure']}" for r in failures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def with_summary(readme: str, found: Mapping[str, Any]) -> str:
    """The README with its table made anew; as it is, if it has no marks for one."""
    before, start, rest = readme.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    made = "\n\n".join((summary(found), answers(found)))
    return "\n\n".join((before + start, made, end + after)) if start and end else readme


# ── curves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def picture_name(model: str) -> str:
    """The file of a model's curves."""
    return f"faithfulness_{model}.png"


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Probability and accuracy as places are flipped: MoRF (falls early if faithful) and LeRF (stays up)."""
    from matplotlib.figure import Figure

    rows = shown(rows)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (curve, unit) in zip(
        axes, (("probability", "probability of the predicted class"), ("accuracy", "accuracy")), strict=True
    ):
        for at, row in enumerate(rows):
            colour = "0.6" if row["family"] == "baseline" else f"C{at}"
            line = "-" if row["family"] == "ours" else "--"
            for order in ("lerf", "morf"):
                values = row["curves"][curve][order]
                axis.plot(
                    np.linspace(0, 100, len(values)),
                    values,
                    line,
                    color=colour,
                    linewidth=1.4,
                    label=f"{row['method']}  {row['abpc']:.3f}" if order == "morf" else None,
                )
        axis.set(xlabel="flipped, %", ylabel=unit, xlim=(0, 100))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1)  # shared: only once both are drawn
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside right center", frameon=False, title="ABPC", fontsize=8)
    legend.set_alignment("left")
    figure.suptitle(
        f"{rows[0]['title']}: upper curves least relevant first, lower ones most relevant first", fontsize=11
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def shown(rows: Sequence[Row]) -> list[Row]:
    """The four best of ours, the three best of the others, and chance, in that order."""
    ranked = sorted(rows, key=lambda row: -row["abpc"])
    half = SHOWN // 2
    return [
        row
        for family, count in (("ours", half), ("peer", half - 1), ("baseline", 1))
        for row in [row for row in ranked if row["family"] == family][:count]
    ]
