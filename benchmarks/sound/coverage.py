"""The paper's Table 5 for this project: which nodes have a rule, and what the explainers are worth.

For every architecture of networks/architectures, in a process of its own:

    coverage   nodes and op kinds as exported, on the relevance path, with a rule
    compile    the books, kept in float32 and in float64: what is not accounted for, as a share of Σ|R|; and how far
               the sum of relevance in float32 is from that in float64
    onnx       checker, domains, opset
    parity     onnxruntime's and torch's float32 error against the same graph in float64, on fresh inputs of other batch
               sizes and lengths: median over rows of the largest difference, as a share of the row's largest value

Times are seconds of CPU, so that a busy machine does not show in them.
Rows are kept in results/coverage.json, the table in results/coverage.md and, shorter, in the README. A failure is a row
with its reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD, README, RESULTS
from benchmarks.sound.coverage_table import markdown, with_summary
from benchmarks.sound.stages import STAGES, measure

EXAMPLES = """examples:
  python -m benchmarks.sound.coverage                              every architecture that has no complete row yet
  python -m benchmarks.sound.coverage --models gpt2 llama          these, again
  python -m benchmarks.sound.coverage --paper --until coverage     the fifteen of the paper, coverage alone
  python -m benchmarks.sound.coverage --models vgg16 --width published
"""


def row_of(name: str, options: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """The architecture's row, whatever becomes of its process."""
    asked = ["--row", name, "--until", options.until, "--threads", options.threads]
    asked += ["--width", options.width] if options.width else []
    command = processes.command("benchmarks.sound.coverage", *asked)
    row: dict[str, Any] = {"name": name}
    log = BUILD / "coverage" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start, stage = time.perf_counter(), "start"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=processes.environment()
        )
        timer = threading.Timer(options.timeout, process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith('{"stage"'):
                continue
            message = json.loads(line)
            stage = message["stage"]
            row |= message["found"]
            report(f"{name}, {stage}")
        code = process.wait()
        timer.cancel()
    if code and "failure" not in row:
        late = time.perf_counter() - start >= options.timeout
        reason = f"not done after {options.timeout} s" if late else f"the process ended with {code}"
        row["failure"] = {"stage": stage, "reason": reason}
    return row


def complete(row: dict[str, Any], until: str) -> bool:
    known = ("covered", "balance_float64", "onnx", "parity")[: STAGES.index(until) + 1]
    return all(key in row for key in known) and "failure" not in row


def width_of(text: str) -> int:
    return 1 if text == "published" else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="these, whether or not they have a row")
    parser.add_argument("--paper", action="store_true", help="only the fifteen architectures of the paper")
    parser.add_argument("--until", choices=STAGES, default="parity", help="the last thing that is measured")
    parser.add_argument("--width", type=width_of, help="divide the published width by this; 'published' is 1")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one architecture (1800)")
    parser.add_argument("--threads", type=int, default=2, help="of torch and onnxruntime (2)")
    parser.add_argument("--list", action="store_true", help="name the architectures")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        measure(options.row, options.width, options.until, options.threads)
        return
    from benchmarks.networks.architectures import ARCHITECTURES

    console = reporting.console()
    if options.list:
        for name, architecture in ARCHITECTURES.items():
            console.print(f"{name:22} {architecture.title}", highlight=False)
        return
    unknown = [name for name in options.models or () if name not in ARCHITECTURES]
    if unknown:
        parser.error(f"no architecture {unknown[0]!r}: choose from {', '.join(ARCHITECTURES)}")
    path = RESULTS / "coverage.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    wanted = options.models or [name for name in ARCHITECTURES if not complete(rows.get(name, {}), options.until)]
    wanted = [name for name in wanted if ARCHITECTURES[name].paper or not options.paper]
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(wanted))
        for name in wanted:
            row = row_of(name, options, lambda stage: progress.update(task, description=stage))
            rows = json.loads(path.read_text()) if path.exists() else {}  # another run may have written meanwhile
            rows = {key: (rows | {name: row})[key] for key in ARCHITECTURES if key in rows or key == name}
            reporting.write_rows(path, rows)
            reporting.write(path.with_suffix(".md"), markdown(rows))
            reporting.write(README, with_summary(README.read_text(), rows))
            progress.advance(task)
            progress.console.print(summary(row), highlight=False)


def summary(row: dict[str, Any]) -> str:
    if "failure" in row:
        return f"{row['name']}: failed at {row['failure']['stage']}: {row['failure']['reason']}"
    text = f"{row['name']}: {row['covered'][0]} of {row['on_path'][0]} nodes"
    if "balance" in row:
        text += f", balance {row['balance']:.0e}, compile {row['cpu_seconds']['compile']} s"
    for key, value in row.get("parity", {}).items():
        text += f", {key} {value['onnxruntime']:.1e}/{value['torch']:.1e}"
    return text


if __name__ == "__main__":
    main()
