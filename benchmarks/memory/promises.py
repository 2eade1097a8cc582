"""What the promise planner comes to: next to the paper, next to autograd and functorch, and in seconds.

    paper      the paper's Table 4 next to ours. Published: promises, internal nodes, δ, ρ, total nodes. ρ is promises
               by total nodes; of the others we know only the figures. Ours, under the paper's strict policy on our
               graph (biases are additions, as in the paper): a promise for every operand of an addition, sum, mean,
               concatenation, stack, piece of an unbind, or softmax; internal: those whose operand comes from such a
               node itself, through views at most; δ: forward nodes walked from each promised operand through views to
               the node that made it, that one included; total: call nodes of the forward graph. Elided: what is left
               of them in the unit form (composite attnlrp). Counts don't depend on the width: an eighth is built.
    bytes      kept bytes of the default policy at the published width, batch 1, and what autograd saves for the same
               forward (saved_tensors_hooks, each storage once, parameters, buffers and inputs left out): for training,
               and for the gradient of the input alone (parameters frozen). Then what this planner and functorch's
               min-cut keep at the same budgets: saved, and held at once when the rebuilt values are counted.
    time       seconds for planning chains, trees and transformer-like graphs of 1k … 16k values at a budget of 0.25,
               best of 5, with the line that fits them.

Rows are kept in results/promises.json, the tables in results/promises.md. Each network has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import RESULTS
from benchmarks.memory.promises_rows import BYTES, PAPER, SHAPES, bytes_row, paper_row, time_row
from benchmarks.memory.promises_table import markdown

PARTS = ("paper", "bytes", "time")
EXAMPLES = """examples:
  python -m benchmarks.memory.promises                             whatever has no row yet
  python -m benchmarks.memory.promises --parts paper time          these tables, again
  python -m benchmarks.memory.promises --parts bytes --models vit_b_16 bert
"""

MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {"paper": paper_row, "bytes": bytes_row, "time": time_row}
NAMES: dict[str, tuple[str, ...]] = {"paper": tuple(PAPER), "bytes": BYTES, "time": SHAPES}


def row_of(part: str, name: str, timeout: float) -> dict[str, Any]:
    """The row, whatever becomes of its process."""
    command = processes.command("benchmarks.memory.promises", "--row", part, name, quiet=True)
    environment = processes.environment()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        return {"failure": f"not done after {timeout:g} s"}
    if done.returncode:
        return {
            "failure": (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1][:300]
        }
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="these tables, whether or not they have rows")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="these rows alone")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one row (1800)")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        import torch

        torch.set_num_threads(2)
        print(json.dumps(MEASURES[options.row[0]](options.row[1])))
        return
    known = {name for names in NAMES.values() for name in names}
    unknown = [name for name in options.models or () if name not in known]
    if unknown:
        parser.error(f"no row {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    path = RESULTS / "promises.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    wanted = [(part, name) for part in options.parts or PARTS for name in NAMES[part]]
    wanted = [(part, name) for part, name in wanted if not options.models or name in options.models]
    if not options.parts and not options.models:
        wanted = [(part, name) for part, name in wanted if "failure" in rows.get(part, {}).get(name, {"failure": ""})]
    console = reporting.console()
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(wanted))
        for part, name in wanted:
            progress.update(task, description=f"{part}, {name}")
            rows.setdefault(part, {})[name] = row = row_of(part, name, options.timeout)
            reporting.write_rows(path, rows)
            reporting.write(path.with_suffix(".md"), markdown(rows))
            progress.advance(task)
            progress.console.print(f"{part}, {name}: {row.get('failure', 'done')}", highlight=False)


if __name__ == "__main__":
    main()
