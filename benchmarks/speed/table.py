"""The tables of run.py, made from its rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.speed.cases import CASES, COMPILED, CONTENDERS, LEAST, OURS, PEERS, REFERENCE, SERIES
from benchmarks.speed.cells import (
    MAIN,
    NOISE,
    beside,
    bullets,
    duration,
    faster,
    milliseconds,
    noisy,
    number,
    rows_of,
    spread,
    table,
    target,
    title,
)
from benchmarks.speed.stops import slower, stops

MARKS = ("<!-- speed: written by benchmarks/speed/run.py -->", "<!-- end of speed -->")


def with_summary(readme: str, found: dict[str, Any]) -> str:
    """The README with its table made anew; as it is, if it has no marks for one."""
    before, start, rest = readme.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    return "\n\n".join((before + start, summary(found), end + after)) if start and end else readme


def summary(found: dict[str, Any]) -> str:
    """The README's table: 2 threads, batch 1."""
    titles = (
        "case",
        "÷ forward",
        "target",
        "floor",
        "ms: explanation ÷ forward beside it",
        "Zennit",
        "LXT",
        "gradient × input",
        "autoLRP",
        "peak, MB: fast / small",
    )
    lines = []
    for name, case in CASES.items():
        row = rows_of(found, name, MAIN)
        if "ratio" not in row.get(OURS, {}):
            continue
        ours = row[OURS]
        peers = [faster(row, peer, case.faster.get(peer)) for peer in ("zennit", "lxt", "gradient", "autolrp")]
        floor = found["files"].get(name, {}).get("floor")
        cells = [
            case.title,
            f"{ours['ratio']:.2f}{noisy(found, name)}",
            target(case.target),
            number(floor),
            f"{milliseconds(ours['seconds'])} ÷ {milliseconds(beside(ours))}",
            *peers,
        ]
        lines.append([*cells, f"{ours['peak']:,.0f} / {number(row.get('small', {}).get('peak'), ',.0f')}"])
    return "\n\n".join((table(titles, lines, left=1), about(found)))


def markdown(found: dict[str, Any], profiles: Mapping[str, Any] | None = None) -> str:
    """All tables; `profiles`: the rows of profile.py, which say what stops a target that was not met."""
    parts = [
        "# Speed",
        "Written by `python -m benchmarks.speed.run`; its docstring says what is measured and how.",
        about(found),
        "## Targets: 2 threads, batch 1",
        targets(found),
        *bullets("## What stops the others", stops(found, profiles or {})),
        *settings(found),
        "## Memory, files, compilation",
        resources(found),
        compilation(found),
        *scaling(found),
        *bullets("## What was not measured", failures(found)),
        *bullets("## To be read with it", notes(found)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def about(found: dict[str, Any]) -> str:
    """Machine, versions, date, and how to read the tables."""
    machine = found["machine"]
    dates = sorted({row["date"] for rows in found["rows"].values() for row in rows.values() if "date" in row})
    when = "" if not dates else f", {dates[0]}" if dates[0] == dates[-1] else f", {dates[0]} to {dates[-1]}"
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB{when}; {versions}. "
        "*÷ forward*: time of an explanation, its forward included, as a multiple of the plain model's forward in "
        "onnxruntime: of the one whose runs alternated with it, since the machine's speed changes from hour to "
        "hour. *floor*: the same if products of matrices were all that costs, counted from the graph. Peers: how many "
        "times as long as our file in onnxruntime they take; in brackets the target."
    )


def targets(found: dict[str, Any]) -> str:
    """Target, what was measured, floor; and whether it was met."""
    titles = (
        "case",
        "target",
        "÷ forward",
        "spread",
        "floor",
        "forward, ms",
        "explainer, ms",
        *map(title, PEERS),
        "met",
    )
    lines = []
    for name, case in CASES.items():
        row = rows_of(found, name, MAIN)
        if "ratio" not in row.get(OURS, {}):
            continue
        ours = row[OURS]
        met = case.target is None or ours["ratio"] <= case.target
        met = met and not slower(case, row)
        cells = [case.title, target(case.target), f"{ours['ratio']:.2f}", f"{spread(ours):.0%}"]
        cells += [number(found["files"].get(name, {}).get("floor"))]
        cells += [milliseconds(beside(ours)), milliseconds(ours["seconds"])]
        lines.append(
            [
                *cells,
                *(faster(row, peer, case.faster.get(peer)) for peer in PEERS),
                ("yes" if met else "no") + noisy(found, name),
            ]
        )
    return table(titles, lines, left=1)


def settings(found: dict[str, Any]) -> list[str]:
    """A table for each number of threads and batch: milliseconds, and multiples of the forward that ran in between."""
    keys = {tuple(map(int, key.split("x"))) for rows in found["rows"].values() for key in rows}
    parts = []
    for threads, batch in sorted(keys, key=lambda key: (-key[0], key[1])):
        rows = {name: rows_of(found, name, f"{threads}x{batch}") for name in CASES}
        here = {name: row for name, row in rows.items() if row}
        names = [name for name in CONTENDERS if any(name in row for row in here.values())]
        lines = [[CASES[case].title, *(duration(row.get(name)) for name in names)] for case, row in here.items()]
        of = f"{threads} {'thread' if threads == 1 else 'threads'}, batch {batch}"
        heading = f"## {of}: ms ÷ those of the forward beside it"
        parts += [heading, table(("case", *map(title, names)), lines, left=1)]
    return parts


def resources(found: dict[str, Any]) -> str:
    """Peaks at 2 threads and batch 1; sizes of files; seconds of compiling."""
    known = {name for case in found["files"] for name in rows_of(found, case, MAIN)}
    names = [name for name in CONTENDERS if name in known]
    titles = ("case", *(f"peak, MB: {title(name)}" for name in names))
    titles += ("file ÷ plain", "`small` ÷ plain", "compile + export, s", "plain export, s", "nodes")
    lines = []
    for case, made in found["files"].items():
        if "failure" in made:
            continue
        row = rows_of(found, case, MAIN)
        size, seconds = made["megabytes"], made["seconds"]
        peaks = [number(row.get(name, {}).get("peak"), ",.0f") for name in names]
        files = [f"{size[kind] / size[REFERENCE]:.3f}" for kind in (OURS, "small")]
        took = [f"{seconds['compile'] + seconds['onnx']:.1f}", f"{seconds['plain']:.1f}", f"{made['nodes'][1]:,}"]
        lines.append([CASES[case].title, *peaks, *files, *took])
    return table(titles, lines, left=1)


def compilation(found: dict[str, Any]) -> str:
    """Seconds of the networks that are compiled alone."""
    lines = []
    for name, made in found.get("compiled", {}).items():
        seconds = made["seconds"]
        both = f"{seconds['compile'] + seconds['onnx']:.1f}"
        cells = [f"{seconds[part]:.1f}" for part in ("compile", "onnx")]
        longest = sorted(made["phases"].items(), key=lambda phase: -phase[1])[:3]
        cells += [both, ", ".join(f"{phase} {taken:.1f}" for phase, taken in longest), f"{made['nodes'][1]:,}"]
        lines.append([COMPILED[name].title, *cells])
    titles = ("case", "compile, s", "export, s", "both", "longest phases of compile, s", "nodes")
    return table(titles, lines, left=1)


def scaling(found: dict[str, Any]) -> list[str]:
    """Seconds at each size, and fits."""
    lines = []
    for name, series in SERIES.items():
        if name not in found["scaling"]:
            continue
        measured = found["scaling"][name]
        for who in (REFERENCE, OURS):
            fit = measured["fits"][who]
            points = ", ".join(f"{size}: {point[who] * 1e3:.0f}" for size, point in measured["points"].items())
            line = f"{fit['start'] * 1e3:.1f} + {fit['slope'] * 1e3:.2f} · {series.size}"
            lines.append([series.title, title(who), points, line, f"{fit['r2']:.4f}", f"{fit['exponent']:.2f}"])
    if not lines:
        return []
    text = (
        "Linear fits of the medians; *exponent*: that of a power law through the same points, 1 where cost is "
        "proportional to size. Cost in tokens is to grow no faster than the forward's."
    )
    titles = ("series", "who", "ms by size", "fit, ms", "R²", "exponent")
    return ["## How cost grows", text, table(titles, lines, left=4)]


def failures(found: dict[str, Any]) -> Iterable[str]:
    """Who has no number, and why."""
    for name, made in found["files"].items():
        if "failure" in made:
            yield f"{CASES[name].title}: {made['failure']}"
    for name, rows in found["rows"].items():
        reasons: dict[tuple[str, str], list[str]] = {}
        for key, row in rows.items():
            for who, measured in row["contenders"].items():
                if "failure" in measured:
                    reasons.setdefault((who, measured["failure"]), []).append(key.replace("x", " threads, batch "))
        for (who, reason), places in reasons.items():
            yield f"{CASES[name].title}, {title(who)} ({'; '.join(places)}): {reason}"


def notes(found: dict[str, Any]) -> Iterable[str]:
    """What the cases say of themselves, whose relevance peers compute, and which rows are noisy."""
    for name in found["rows"]:
        if CASES[name].note:
            yield f"{CASES[name].title}: {CASES[name].note}"
        if CASES[name].least:
            yield (
                f"{CASES[name].title}: here `small` is the least memory that there is: few promises are kept "
                f"(`memory_budget={LEAST:g}`), nothing that follows from weights alone is "
                "(`lean_options(fold_weights=False)`)."
            )
        peers = {who: measured for who, measured in rows_of(found, name, MAIN).items() if "cosine" in measured}
        if peers:
            listed = ", ".join(f"{title(who)} {number(m['cosine'], '.4f')}" for who, m in peers.items())
            yield f"{CASES[name].title}: cosine to our relevance: {listed}."
    for name, rows in found["rows"].items():
        for key, row in rows.items():
            place = f"{CASES[name].title}, {key.replace('x', ' threads, batch ')}"
            if row["others"] > NOISE:
                yield f"Noisy: {place}: other processes took {row['others']:.2f} cores (load before {row['load']:.1f})."
            wide = [title(who) for who, m in row["contenders"].items() if "seconds" in m and spread(m) > NOISE]
            if wide:
                yield f"Noisy: {place}: the quartiles are more than {NOISE:.0%} apart for {', '.join(wide)}."
