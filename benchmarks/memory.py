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
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reporting

RESULTS = Path(__file__).resolve().parent / "results"
NETWORKS = ("vit_b_16", "resnet50", "roberta_large")
BUDGETS = (1.0, 0.5, 0.25, 0.0)
RUNTIMES = ("torch", "onnxruntime")
EXAMPLES = """examples:
  python benchmarks/memory.py                                   whatever has no row yet
  python benchmarks/memory.py --models vit_b_16 --budgets 1 .25
  python benchmarks/memory.py --runtimes torch --repeat 9
"""

# ── one network at one budget ────────────────────────────────────────────────────────────────────────────────────────


def in_torch(name: str, budget: float, repeat: int) -> dict[str, Any]:
    """Compile, and run forward and explainer as graphs of torch."""
    import numpy
    import torch

    explainer, inputs = compiled(name, budget)
    tensors = list(inputs.values())
    run = measured(lambda: explainer.forward(*tensors), lambda: explainer.module(*tensors), repeat)
    plan = explainer.plan
    row = {"kept": plan.kept_bytes, "held": plan.held_bytes, "promised": plan.promised_bytes, "reached": plan.reached}
    row |= {"again": plan.rebuilt_share}
    with torch.no_grad():
        relevance = explainer.module(*tensors)[-1]
    numpy.save(relevance_file(name, budget), relevance.numpy())
    return {"plan": row, "torch": run, "error": error(name, budget, explainer, tensors, relevance)}


def error(name: str, budget: float, explainer: Any, tensors: list[Any], relevance: Any) -> dict[str, float]:
    import numpy

    from lrp_compiler.views.audit import Float64

    exact_file = relevance_file(name, "exact")
    if budget == 1.0 or not exact_file.exists():
        numpy.save(exact_file, Float64(explainer.module).run(*tensors)[-1].numpy())
    found = {"float64": off(relevance.numpy(), numpy.load(exact_file))}
    if relevance_file(name, 1.0).exists():
        found["budget 1"] = off(relevance.numpy(), numpy.load(relevance_file(name, 1.0)))
    return found


def off(relevance: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest relevance."""
    return float(abs(relevance - expected).max() / abs(expected).max())


def relevance_file(name: str, which: float | str) -> Path:
    folder = RESULTS.parent.parent / "build" / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{which}.npy"


def compiled(name: str, budget: float) -> tuple[Any, dict[str, Any]]:
    from published import PUBLISHED

    import lrp_compiler as lrp

    network = PUBLISHED[name]
    inputs = network.inputs(1)
    options: dict[str, Any] = {"composite": network.composite, "target": lrp.Target(0), "memory_budget": budget}
    return lrp.compile(network.build(), kwargs=inputs, **options), inputs


def in_onnxruntime(name: str, budget: float, repeat: int) -> dict[str, Any]:
    """Write the files in a process of their own, then run them in this one, which never imports torch."""
    import numpy
    import onnxruntime

    from lrp_compiler.runtime import lean_options

    with tempfile.TemporaryDirectory(dir=relevance_file(name, budget).parent) as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--write", name, str(budget), folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        inputs = dict(numpy.load(Path(folder) / "inputs.npz"))
        options = lean_options()
        options.enable_cpu_mem_arena = False
        options.intra_op_num_threads = 2

        def session(kind: str) -> Any:
            path = Path(folder) / f"{kind}.onnx"
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        forward, explainer = session("forward"), session("explainer")
        found = measured(lambda: forward.run(None, inputs), lambda: explainer.run(None, inputs), repeat)
        exact = relevance_file(name, "exact")  # which the run in torch wrote
        if exact.exists():
            found["error"] = off(explainer.run(None, inputs)[-1], numpy.load(exact))
        return {"onnxruntime": found}


def write_files(name: str, budget: float, folder: Path) -> None:
    import numpy
    import torch
    from published import PUBLISHED

    explainer, inputs = compiled(name, budget)
    numpy.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    explainer.to_onnx(folder / "explainer.onnx")
    options: dict[str, Any] = {"dynamo": True, "opset_version": 20, "verbose": False}
    torch.onnx.export(PUBLISHED[name].build(), kwargs=inputs, f=folder / "forward.onnx", **options)


def measured(forward: Callable[[], Any], explain: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Peaks above the resting process, MB, and seconds."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_grad_enabled(False)
    peaks = {}
    for key, run in (("forward", forward), ("explain", explain)):
        run()
        rest()
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        run()
        peaks[key] = (status("VmHWM") - before) / 1e3
    seconds: dict[str, list[tuple[float, float]]] = {"forward": [], "explain": []}
    for _ in range(repeat):
        for key, run in (("forward", forward), ("explain", explain)):
            start = time.perf_counter(), time.process_time()
            run()
            seconds[key].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    found: dict[str, Any] = {"peak": peaks, "load": os.getloadavg()[0]}
    for place, clock in enumerate(("seconds", "cpu")):
        found[clock] = {key: statistics.median(run[place] for run in runs) for key, runs in seconds.items()}
    return found


def rest() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def status(key: str) -> int:
    """kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


# ── table ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    from published import PUBLISHED

    parts = ["# Memory", "Written by `python benchmarks/memory.py`; its docstring says what the columns mean."]
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
    command = [sys.executable, "-W", "ignore", __file__, "--row", name, str(budget), runtime]
    command += ["--repeat", str(options.repeat)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "2"}
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
