"""What a memory budget buys, and what it costs: bytes, seconds and errors at budgets 1, ½, ¼ and 0.

For every network at its published width, batch 1, float32, in a process of its own for each budget and runtime:

    plan     bytes that the forward hands over and bytes held at once (with the largest rebuilt segment), as shares of
             what the default policy holds; where the budget cannot be reached, what was
    peak     the process's peak resident memory while the explainer runs, above the peak of the same process while it
             runs the forward alone: both after a first run, counted anew (VmHWM) from the resting process
    time     median of the runs with the explainer over that of the forwards in between; as a multiple of the same at
             budget 1: seconds by the clock, and seconds of CPU, in which a busy machine shows less
    error    relevance against the same graph in float64, as a share of the largest relevance: torch's and onnxruntime's
             at this budget; and how far torch's is from what it is at budget 1

torch runs the explainer's GraphModule. onnxruntime runs the file under `lrp_compiler.runtime.lean_options`: by default
it would keep the memory of a value for a later one of the same size, and its pattern reserves the first run's total at
once. Here it runs without its arena as well, which keeps what it took for the next run, whose peak could not be seen.
Both run with blocks above 64 KiB mapped one by one (MALLOC_MMAP_THRESHOLD_), so that what is freed leaves the process.
Rows are kept in results/memory.json, the table in results/memory.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import RESULTS
from benchmarks.memory.at_budget import in_onnxruntime, in_torch, write_files

NETWORKS = ("vit_b_16", "resnet50", "roberta_large")
BUDGETS = (1.0, 0.5, 0.25, 0.0)
RUNTIMES = ("torch", "onnxruntime")
EXAMPLES = """examples:
  python -m benchmarks.memory.budgets                                   whatever has no row yet
  python -m benchmarks.memory.budgets --models vit_b_16 --budgets 1 .25
  python -m benchmarks.memory.budgets --runtimes torch --repeat 9
"""

# ── table ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    from benchmarks.networks.published import PUBLISHED

    parts = ["# Memory", "Written by `python -m benchmarks.memory.budgets`; its docstring says what the columns mean."]
    for name in NETWORKS:
        mine = {budget: rows.get(name, {}).get(str(budget), {}) for budget in BUDGETS}
        if not any(mine.values()):
            continue
        lines = [
            f"## {PUBLISHED[name].title}, {PUBLISHED[name].composite}",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|" + "---:|" * len(COLUMNS),
        ]
        lines += ["| " + " | ".join(cells(budget, row, mine[1.0])) + " |" for budget, row in mine.items() if row]
        loads = [row[runtime].get("load", BUSY) for row in mine.values() for runtime in RUNTIMES if runtime in row]
        if max(loads) >= BUSY:
            lines += ["", "The machine was busy with other work for some of these rows: their times say nothing."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


BUSY = 3.0
"""Load average from which on times are not trusted: the benchmark itself makes 2."""
CLOCKS = ("seconds", "cpu")
COLUMNS = (
    "budget",
    "saved MB",
    "held MB",
    "of default",
    "computed again",
    *(
        f"{runtime}: {what}"
        for runtime in RUNTIMES
        for what in ("peak above forward, MB", "less by", "time", "CPU time")
    ),
    "torch: error",
    "onnxruntime: error",
    "≠ budget 1",
)


def in_forwards(row: dict[str, Any], runtime: str, clock: str) -> float:
    """What an explanation takes in terms of the forwards that ran in between."""
    found = row[runtime][clock]
    return float(found["explain"] / found["forward"])


def above(row: dict[str, Any], runtime: str) -> float:
    peak = row[runtime]["peak"]
    return float(peak["explain"] - peak["forward"])


def cells(budget: float, row: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    plan = row.get("plan")
    line = [f"{budget:g}", "–", "–", "–", "–"]
    if plan:
        reached = "" if plan["reached"] else " (the floor)"
        line = [f"{budget:g}", f"{plan['kept'] / 1e6:.1f}", f"{plan['held'] / 1e6:.1f}"]
        line += [f"{plan['held'] / plan['promised']:.0%}{reached}", f"{plan['again']:.0%}"]
    for runtime in RUNTIMES:
        if runtime not in row or runtime not in whole:
            line += ["–"] * 4
            continue
        base = above(whole, runtime)
        line += [f"{above(row, runtime):.0f}", f"{1 - above(row, runtime) / base:.0%}"]
        for clock in CLOCKS:
            known = clock in row[runtime] and clock in whole[runtime]
            line.append(
                f"{in_forwards(row, runtime, clock) / in_forwards(whole, runtime, clock):.2f} ×" if known else "–"
            )
    found = row.get("error", {})
    errors = (found.get("float64"), row.get("onnxruntime", {}).get("error"), found.get("budget 1"))
    return [*line, *("–" if value is None else f"{value:.1e}" for value in errors)]


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────

MEASURES = {"torch": in_torch, "onnxruntime": in_onnxruntime}


def row_of(name: str, budget: float, runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the process finds out, or why it did not."""
    asked = ["--row", name, budget, runtime, "--repeat", options.repeat]
    command = processes.command("benchmarks.memory.budgets", *asked, quiet=True)
    environment = processes.environment(MALLOC_MMAP_THRESHOLD_="65536", OMP_NUM_THREADS="2")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout, env=environment)
    except subprocess.TimeoutExpired:
        return {"failure": f"{runtime}: not done after {options.timeout:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
        return {"failure": f"{runtime}: {last[:300]}"}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=NETWORKS, help="these, whether or not they have rows")
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS, help="shares, of 1, 0.5, 0.25 and 0")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="which to run in")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each (5)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one process (1800)")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        if options.row[2] == "torch":
            import torch

            torch.set_num_threads(2)
        print(json.dumps(MEASURES[options.row[2]](options.row[0], float(options.row[1]), options.repeat)))
        return
    if options.write:
        write_files(options.write[0], float(options.write[1]), Path(options.write[2]))
        return
    path = RESULTS / "memory.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    wanted = [
        (name, budget, runtime)
        for name in options.models or NETWORKS
        for budget in options.budgets
        for runtime in options.runtimes
        if options.models or runtime not in rows.get(name, {}).get(str(budget), {})
    ]
    console = reporting.console()
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(wanted))
        for name, budget, runtime in wanted:
            progress.update(task, description=f"{name}, {budget:g}, {runtime}")
            found = row_of(name, budget, runtime, options)
            row = rows.setdefault(name, {}).setdefault(str(budget), {})
            row.pop("failure", None)
            row |= found
            reporting.write_rows(path, rows)
            reporting.write(path.with_suffix(".md"), markdown(rows))
            progress.advance(task)
            progress.console.print(f"{name}, {budget:g}, {runtime}: {found.get('failure', 'done')}", highlight=False)


if __name__ == "__main__":
    main()
