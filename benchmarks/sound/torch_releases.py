"""Releases of torch: what the core of the tests came to with each.

`make test-torch VERSION=2.12.1` leaves pytest's report in build/torch-releases/2.12.1. This counts the tests in the
reports of each release and writes rows to results/torch_releases.json, the table to results/torch_releases.md. A test
in several reports is what the newest says; a release without a report keeps its row.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.base import reporting
from benchmarks.base.places import BUILD

REPORTS = BUILD / "torch-releases"
ROWS = Path(__file__).parent / "results" / "torch_releases.json"
OUTCOMES = ("passed", "skipped", "failed")

Row = dict[str, int]
"""Tests by outcome."""


def row(reports: list[Path]) -> Row:
    """How the tests in these reports ended: of one that stands in several, as the newest says."""
    ended: dict[tuple[str, str], str] = {}
    for report in sorted(reports, key=lambda path: path.stat().st_mtime):
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case}
            how = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            ended[case.get("classname", ""), case.get("name", "")] = how
    counts = Counter(ended.values())
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def newest_first(rows: dict[str, Row]) -> dict[str, Row]:
    def numbers(release: str) -> list[int]:
        return [int(part) for part in release.split(".")]

    return {release: rows[release] for release in sorted(rows, key=numbers, reverse=True)}


def document(rows: dict[str, Row]) -> str:
    whole = max(sum(row.values()) for row in rows.values())
    lines = [f"| torch | {' | '.join(OUTCOMES)} | not run |", "|---|" + "---:|" * (len(OUTCOMES) + 1)]
    for release, row in rows.items():
        counts = [*(row[outcome] for outcome in OUTCOMES), whole - sum(row.values())]
        lines.append(f"| {release} | {' | '.join(f'{count:,}' for count in counts)} |")
    parts = [
        "# Releases of torch",
        "Written by `python -m benchmarks.sound.torch_releases` from what `make test-torch VERSION=…` reported: tests "
        "of the core (rules, compiling, files, onnxruntime), without what is marked heavy. *Not run*: how many "
        "fewer than with the release that most were run with; the core grows.",
        "<!-- torch_releases: written by benchmarks/sound/torch_releases.py -->",
        "\n".join(lines),
        "<!-- end of torch_releases -->",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows: dict[str, Row] = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    for folder in REPORTS.glob("*"):
        rows[folder.name] = row(list(folder.glob("*.xml")))
    rows = newest_first(rows)
    reporting.write_rows(ROWS, rows)
    reporting.write(ROWS.with_suffix(".md"), document(rows))
    if any(row["failed"] for row in rows.values()):
        sys.exit("Some tests failed: see results/torch_releases.md.")


if __name__ == "__main__":
    main()
