"""Random modules under random composites, targets, budgets and shapes: each ends in a right result or in an `LrpError`.

A module is real module code, written from a grammar (`modules/`) by numbers that a seed draws. What is promised of it
is in `contract.py`; which promises are asked of a case is drawn as well, so that a case takes a second or two. What
breaks a promise is shrunk to the smallest module that breaks it in the same way, and printed as Python.

Rows are kept in build/fuzz, the table in results/fuzz.md. Exit status 1: something was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD
from benchmarks.sound import RESULTS
from benchmarks.sound.outcomes import (
    FINDINGS,
    counts,
    counts_table,
    findings_table,
    groups,
    outcome,
    published,
    refusals_table,
)
from benchmarks.sound.workers import Row, TooLong, append_row, at_most, read_rows, run, serve

if TYPE_CHECKING:
    from benchmarks.sound.contract import Asked
    from benchmarks.sound.modules import Written

EXAMPLES = """examples:
  make fuzz                                          an hour
  python -m benchmarks.sound.fuzz --cases 2000 --resume   until there are 2,000; what has a row is not run again
  python -m benchmarks.sound.fuzz --seed 17 --cases 1     this one; a finding is shrunk and printed
  python -m benchmarks.sound.fuzz --show 17               its Python
"""
FOLDER = BUILD / "fuzz"
SECONDS, SHRINKING = 60.0, 120.0
"""Of CPU: for one case; to shrink one."""
SHARE = 0.35
"""How often each of the dear promises is asked."""


def asked_of(written: Written, promises: tuple[str, ...] | None = None) -> Asked:
    """The case as `contract.hold` takes it; by default with the promises that its seed draws."""
    from benchmarks.sound.contract import PROMISES, Asked

    model, make, options = written.build()
    if promises is None:
        random = Random(written.case.seed)
        promises = tuple(p for p in PROMISES if p in ("output", "books", "graph") or random.random() < SHARE)
    return Asked(model, make, options, written.told, promises)


def examine(written: Written, promises: tuple[str, ...] | None = None, seconds: float = SECONDS) -> Row:
    """The row of one case."""
    from benchmarks.sound.contract import hold

    return outcome(lambda: hold(asked_of(written, promises)), seconds)


def shrunk(written: Written, row: Row) -> tuple[Written, Row]:
    """The smallest case that fails as `row` did."""
    from benchmarks.sound.modules import shrink

    # What compile, output and hangs need no later promise for.
    promises = tuple(dict.fromkeys(("output", row.get("promise", "output"))))
    promises = tuple(p for p in promises if p != "compile")
    best = written, row

    def fails(candidate: Written) -> bool:
        nonlocal best
        found = examine(candidate, promises, 20)
        if found.get("signature") == row["signature"]:
            best = candidate, found
            return True
        return False

    try:
        with at_most(SHRINKING):
            shrink(written, fails)
    except TooLong:
        pass
    return best


def job(seed: str) -> Row:
    """Draw, examine, and shrink what is new."""
    from benchmarks.sound.modules import draw

    written = draw(int(seed))
    row = examine(written)
    row["ops"] = [step.op for step in written.case.steps]
    if row["kind"] in FINDINGS:
        known = [earlier.get("signature") for earlier in read_rows(FOLDER / "rows.jsonl").values()]
        if row["signature"] not in known and row["kind"] != "hang":
            written, small = shrunk(written, row)
            row["detail"] = small["detail"]
        row["script"] = written.script()
    return row


def work(seeds: list[str]) -> None:
    """In the worker."""
    import warnings

    import torch

    from benchmarks.sound.contract import warm_up

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    warm_up()
    serve(seeds, job, cpu=int(2 * SECONDS + SHRINKING))


def markdown(rows: dict[str, Row], seed: int) -> str:
    """The table."""
    values = list(rows.values())
    ops = Counter(op for row in values for op in row.get("ops", ()))
    late = Counter(text for row in values for text in row.get("refused", ()))
    parts = [
        "# Random modules",
        "Written by `python -m benchmarks.sound.fuzz`; its docstring says what is asked of a module. "
        f"{len(values):,} modules, seeds from {seed} on; {sum(ops.values()):,} steps of {len(ops)} ops of the grammar.",
        counts_table(counts(values)),
        "## Findings",
        findings_table(values, "seed"),
        *(f"```python\n{members[0]['script']}```" for _, members in groups(values, FINDINGS) if "script" in members[0]),
        "## Refusals",
        refusals_table(values),
        "Compiled, but refused by an exporter or by `observe`:",
        "\n".join(f"- {count} × {text}" for text, count in late.most_common(15)) or "None.",
    ]
    return "\n\n".join(parts) + "\n"


def plain(rows: dict[str, Row]) -> dict[str, Any]:
    """What is kept as JSON: counts, and every finding."""
    values = rows.values()
    found = [row for row in values if row["kind"] in FINDINGS]
    return {"counts": counts(values), "findings": {row["key"]: row for row in found}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="no case is started after (60)")
    parser.add_argument("--cases", type=int, default=100_000, help="at most so many")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next ones count on (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    parser.add_argument("--resume", action="store_true", help="keep the rows of earlier runs")
    parser.add_argument("--again", action="store_true", help="run what failed once more, nothing else")
    parser.add_argument("--show", type=int, metavar="SEED", help="print this case as Python")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    if options.show is not None:
        from benchmarks.sound.modules import draw

        print(draw(options.show).script())
        return
    path, end = FOLDER / "rows.jsonl", time.monotonic() + 60 * options.minutes
    if not (options.resume or options.again):
        path.unlink(missing_ok=True)
    rows = read_rows(path)
    seeds = [str(seed) for seed in range(options.seed, options.seed + options.cases) if str(seed) not in rows]
    if options.again:
        seeds = [key for key, row in rows.items() if row["kind"] in FINDINGS]
    console = reporting.console()

    def found(row: Row) -> None:
        append_row(path, row)
        rows[row["key"]] = row
        if row["kind"] in FINDINGS:
            console.print(f"{row['key']}: {row['kind']}: {row['signature'][1:]}: {row.get('detail')}", markup=False)
        if len(rows) % 50 == 0:
            console.print(f"{len(rows)} cases: {counts(rows.values())}", markup=False)

    run(
        lambda keys: processes.command("benchmarks.sound.fuzz", "--work", *keys, quiet=True),
        seeds,
        found,
        jobs=options.jobs,
        chunk=100,
        log=FOLDER / "log.txt",
        more=lambda: time.monotonic() < end,
    )
    reporting.write_rows(RESULTS / "fuzz.json", published(plain(rows)))
    reporting.write(RESULTS / "fuzz.md", markdown(rows, options.seed))
    console.print(f"{len(rows)} cases: {counts(rows.values())}", markup=False)
    if any(row["kind"] in FINDINGS for row in rows.values()):
        sys.exit("See benchmarks/sound/results/fuzz.md.")


if __name__ == "__main__":
    main()
