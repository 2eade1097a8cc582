"""What checkpoints in loops save, and take: recurrences of 1,000 steps with and without a memory budget.

One layer each of nn.GRU and nn.LSTM, and an Elman cell with a skip that Python writes out: 64 → 256, `attnlrp`, random
weights, float32, batch 4, lengths open, logits of the last state. In onnxruntime, on one thread, each run a process of
its own; both forms take turns.

    states kept    of the states of all steps those at checkpoints and those of one block, by the plan
    MB             resident memory at most in a first run of the explainer, above the resting process: median
    CPU s          of the explainer, in a second run: median

Rows are kept in results/checkpoints.json, the table in results/checkpoints.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.memory.long_context import peak

STEPS = 1000
FEW = 8
"""Steps of the example, and of a run before what is measured."""
BATCH, GIVEN, WIDTH = 4, 64, 256
BUDGETS = {"all steps": 1.0, "checkpoints": 0.7}
"""With the second the states at checkpoints are enough: nothing else is calculated again."""
KINDS = ("GRU", "LSTM", "Elman")
FOLDER = BUILD / "checkpoints"


def model(kind: str) -> Any:
    import torch
    from torch import Tensor, nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = getattr(nn, kind)(GIVEN, WIDTH, batch_first=True)
            self.head = nn.Linear(WIDTH, 10)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.head(self.layer(x)[0][:, -1]))

    class Elman(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.given, self.kept = nn.Linear(GIVEN, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[0], WIDTH)
            for step in range(x.shape[1]):
                h = torch.tanh(self.given(x[:, step]) + self.kept(h)) + 0.5 * h
            return torch.as_tensor(self.head(h))

    torch.manual_seed(0)
    return (Elman() if kind == "Elman" else Layer()).eval().requires_grad_(False)


def inputs(steps: int) -> dict[str, Any]:
    import numpy as np

    return {"x": np.random.default_rng(steps).standard_normal((BATCH, steps, GIVEN), np.float32)}


def write(kind: str, form: str) -> None:
    """The explainer's file; the share of states that is kept is printed."""
    import torch

    import lrp_compiler as lrp

    FOLDER.mkdir(parents=True, exist_ok=True)
    sizes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}}
    example = torch.as_tensor(inputs(FEW)["x"])
    explainer = lrp.compile(
        model(kind), (example,), composite="attnlrp", dynamic_shapes=sizes, memory_budget=BUDGETS[form]
    )
    explainer.to_onnx(path_of(kind, form))
    plan = explainer.plan
    states = [promise.nbytes for promise in plan.of("kept") if promise.value.endswith("_at_checkpoints")]
    of_all = BATCH * WIDTH * 4 * len(states) * plan.steps
    block = BATCH * WIDTH * 4 * len(states) * round(plan.steps**0.5)
    print(json.dumps({"kept": (sum(states) + block) / of_all if states else 1.0}))


def path_of(kind: str, form: str) -> Path:
    return FOLDER / f"{kind}-{list(BUDGETS).index(form)}.onnx"


def run(what: str, path: Path, few: dict[str, Any], many: dict[str, Any]) -> dict[str, float]:
    """Measure in this process: the peak in MB, or the seconds of CPU."""
    import onnxruntime

    from lrp_compiler.runtime import lean_options

    lean = what == "peak"
    options = lean_options() if lean else onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    provider = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"} if lean else {})
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    session.run(None, few)
    explain = partial(session.run, None, many)
    if lean:
        return {what: peak(explain)}
    explain()
    start = time.process_time()
    explain()
    return {what: time.process_time() - start}


def measured(module: str, *asked: Any, **more: str) -> dict[str, Any]:
    """What a process of its own prints."""
    done = subprocess.run(
        processes.command(module, *asked, quiet=True),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=processes.environment(**more),
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


FREED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""What is freed leaves the process at once where memory is measured; that takes time."""


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    table = [
        "| | states kept | MB | | CPU s | | time |",
        "|---|---:|---:|---:|---:|---:|---:|",
        f"| {STEPS:,} steps | | all steps | checkpoints | all steps | checkpoints | × |",
    ]
    for kind in KINDS:
        both = [rows.get(f"{kind} {form}") for form in BUDGETS]
        if all(both):
            whole, some = ({key: statistics.median(row[key]) for key in ("peak", "cpu")} for row in both if row)
            kept = both[1]["kept"]  # type: ignore[index]
            cells = [f"{kept:.1%}", f"{whole['peak']:.0f}", f"{some['peak']:.0f}"]
            cells += [f"{whole['cpu']:.2f}", f"{some['cpu']:.2f}", f"{some['cpu'] / whole['cpu']:.2f}"]
            table.append(f"| {kind} | {' | '.join(cells)} |")
    written = "Written by `python -m benchmarks.memory.checkpoints`; its docstring says what the columns mean."
    return "\n\n".join(["# Checkpoints in loops", written, "\n".join(table)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(*options.write)
        return
    if options.run:
        what, kind, form = options.run
        print(json.dumps(run(what, path_of(kind, form), inputs(FEW), inputs(STEPS))))
        return
    console = reporting.console()
    path = RESULTS / "checkpoints.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    own = "benchmarks.memory.checkpoints"
    for kind in options.kinds:
        found = {form: {**measured(own, "--write", kind, form), "peak": [], "cpu": []} for form in BUDGETS}
        for _ in range(options.rounds):
            for form, row in found.items():
                row["peak"].append(measured(own, "--run", "peak", kind, form, **FREED)["peak"])
                row["cpu"].append(measured(own, "--run", "cpu", kind, form)["cpu"])
        for form, row in found.items():
            rows[f"{kind} {form}"] = row
            console.print(kind, form, row, highlight=False)
        reporting.write_rows(path, rows)
        reporting.write(RESULTS / "checkpoints.md", markdown(rows))


if __name__ == "__main__":
    main()
