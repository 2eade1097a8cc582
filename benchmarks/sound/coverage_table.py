"""The tables of coverage.py, made from its rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """Both tables, failures below."""
    from benchmarks.networks.architectures import ARCHITECTURES

    parts = [
        "# Coverage",
        "Written by `python -m benchmarks.sound.coverage`; its docstring says what the columns mean. "
        "Full depth, random weights, published width divided by *width*. "
        "Errors of onnxruntime / of torch in float32, both against float64.",
    ]
    for title, paper in (("The fifteen architectures of the paper", True), ("Relatives", False)):
        chosen = [(name, a) for name, a in ARCHITECTURES.items() if a.paper is paper and name in rows]
        lines = [f"## {title}", "", "| " + " | ".join(COLUMNS) + " |", "|---" * 3 + "|---:" * (len(COLUMNS) - 3) + "|"]
        lines += ["| " + " | ".join(cells(rows[name], a.title, a.composite)) + " |" for name, a in chosen]
        done = [rows[name] for name, _ in chosen if "covered" in rows[name]]
        have, need = (sum(row[key][0] for row in done) for key in ("covered", "on_path"))
        lines += ["", f"{have:,} of {need:,} nodes on the relevance path have a rule ({len(done)} architectures)."]
        parts.append("\n".join(lines))
    failures = [
        f"- {ARCHITECTURES[name].title}, {row['failure']['stage']}: {row['failure']['reason']}"
        for name, row in rows.items()
        if "failure" in row
    ]
    failures += [
        f"- {ARCHITECTURES[name].title}, no rule: " + ", ".join(f"{op} × {n}" for op, n in row["uncovered"].items())
        for name, row in rows.items()
        if row.get("uncovered")
    ]
    if failures:
        parts.append("\n".join(["## What failed", "", *failures]))
    return "\n\n".join(parts) + "\n"


MARKS = ("<!-- coverage: written by benchmarks/sound/coverage.py -->", "<!-- end of coverage -->")


def with_summary(readme: str, rows: dict[str, dict[str, Any]]) -> str:
    """The README with its short table made anew."""
    before, _, rest = readme.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return "\n\n".join((before + MARKS[0], summary_table(rows), MARKS[1] + after))


def summary_table(rows: dict[str, dict[str, Any]]) -> str:
    """The paper's fifteen in a table, their relatives in a sentence."""
    from benchmarks.networks.architectures import ARCHITECTURES

    titles = (
        "architecture",
        "composite",
        "width",
        "nodes",
        "with a rule",
        "balance, float32 / float64",
        "onnxruntime / torch",
        "seconds",
    )
    lines = ["| " + " | ".join(titles) + " |", "|---" * 3 + "|---:" * (len(titles) - 3) + "|"]
    relatives = []
    for name, architecture in ARCHITECTURES.items():
        row = rows.get(name, {})
        if not architecture.paper and "covered" in row:
            relatives.append((architecture.title, row))
        if not architecture.paper or "covered" not in row:
            continue
        _, composite, width, _, _, _, balance, _, _, error, *_ = cells(row, architecture.title, architecture.composite)
        seconds = f"{sum(row.get('cpu_seconds', {}).values()):.0f}"
        counted = [f"{row[key][0]:,}" for key in ("on_path", "covered")]
        lines.append(
            "| " + " | ".join((architecture.title, composite, width, *counted, balance, error, seconds)) + " |"
        )
    parts = ["\n".join(lines)]
    if relatives:
        have, need = (sum(row[key][0] for _, row in relatives) for key in ("covered", "on_path"))
        names = ", ".join(title for title, _ in relatives)
        text = f"{len(relatives)} relatives, narrower: {have:,} of {need:,} nodes have a rule: {names}."
        left = [title for title, row in relatives if "parity" not in row]
        text += f" Not run in onnxruntime yet: {', '.join(left)}." if left else " All of them ran in onnxruntime too."
        parts.append(text)
    return "\n\n".join(parts)


COLUMNS = (
    "architecture",
    "composite",
    "width",
    "nodes (kinds) exported",
    "on the path",
    "covered",
    "balance error / Σ\\|R\\|, float32 / float64",
    "float32 sum off / Σ\\|R\\|",
    "output error",
    "relevance error",
    "plain ONNX",
    "export, CPU s",
    "compile, CPU s",
    "ONNX, CPU s",
)


def cells(row: dict[str, Any], title: str, composite: str) -> list[str]:
    def counts(key: str) -> str:
        return "{:,} ({})".format(*row[key]) if key in row else "–"

    def small(key: str) -> str:
        return f"{row[key]:.0e}" if key in row else "–"

    def errors(pick: Callable[[str], bool]) -> str:
        found = [value for key, value in row.get("parity", {}).items() if pick(key)]
        pair = max(found, key=lambda value: value["onnxruntime"] / max(value["torch"], 1e-12), default=None)
        return f"{pair['onnxruntime']:.1e} / {pair['torch']:.1e}" if pair else "–"

    def seconds(key: str) -> str:
        return f"{row['cpu_seconds'][key]:.1f}" if key in row.get("cpu_seconds", {}) else "–"

    onnx = row.get("onnx")
    plain = onnx and not onnx["foreign"] and not onnx["functions"] and [domain for domain, _ in onnx["opsets"]] == [""]
    return [
        title,
        composite,
        f"1/{row['width']}" if row.get("width", 1) != 1 else "1",
        counts("exported"),
        counts("on_path"),
        counts("covered"),
        f"{small('balance')} / {small('balance_float64')}",
        small("float32_sum"),
        errors(lambda key: key == "output"),
        errors(lambda key: key != "output"),
        "–" if onnx is None else f"yes, opset {onnx['opsets'][0][1]}" if plain else "no",
        seconds("export"),
        seconds("compile"),
        seconds("onnx"),
    ]
