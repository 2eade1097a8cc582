"""Where the time of an explanation goes: onnxruntime's own profile of the forward and of our explainer, op by op.

    python -m benchmarks.speed.profile --cases vgg16-epsilon resnet50-epsilon

For each case of speed/cases.py, at 2 threads and batch 1, in one process after the other: milliseconds of every kind of
operator (medians of each node over the runs, summed), and how many nodes there are. The products (convolutions and
matrix products) are what the floor of speed/run.py counts; the rest stops an explanation from reaching it. Written into
results/speed_profile.md, which keeps the cases that are not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.base import processes
from benchmarks.base.places import RESULTS
from benchmarks.base.reporting import console, write, write_rows
from benchmarks.speed.cases import CASES, OURS, REFERENCE
from benchmarks.speed.cells import table
from benchmarks.speed.files import prepared
from benchmarks.speed.peers.ours import FILES
from benchmarks.speed.stops import shares

ARITHMETIC = ("Add", "Sub", "Mul", "Div")
FEWEST = 0.01
"""Kinds of operators that take less than this share of the explanation are put together."""


def profile(path: Path, inputs: Path, threads: int, runs: int) -> dict[str, Any]:
    """One file's time by kind of operator: {"run": ms, "ops": {kind: [ms, nodes]}, "rules": {rule: ms}}.

    `rules`: of the elementwise operations that a rule consists of (see `ARITHMETIC`), which the file's nodes name.
    """
    import numpy as np
    import onnx
    import onnxruntime

    given = dict(np.load(inputs))

    def session(profiled: bool) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = profiled
        options.profile_file_prefix = str(path.with_suffix(""))
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    plain, seconds = session(False), []
    for _ in range(runs):
        start = time.perf_counter()
        plain.run(None, given)
        seconds.append(time.perf_counter() - start)
    del plain
    profiled = session(True)
    for _ in range(runs):
        profiled.run(None, given)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    nodes: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["name"]].append(event["dur"] / 1e3)
            kinds[event["name"]] = event["args"]["op_name"]
    ops: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for name, taken in nodes.items():
        ops[kinds[name]][0] += statistics.median(taken)
        ops[kinds[name]][1] += 1
    rules: dict[str, float] = defaultdict(float)
    for node in onnx.load(path, load_external_data=False).graph.node:
        about = {entry.key: entry.value for entry in node.metadata_props}
        name = f"{node.name}_kernel_time"
        if about.get("lrp.phase") == "relevance" and node.op_type in ARITHMETIC and name in nodes:
            rules[about.get("lrp.rule", "")] += statistics.median(nodes[name])
    return {"run": 1e3 * statistics.median(seconds), "ops": dict(ops), "rules": dict(rules)}


def markdown(rows: dict[str, Any]) -> str:
    """All cases, as tables."""
    return "\n\n".join(["# Where the time goes", (__doc__ or "").strip(), *map(section, rows, rows.values())]) + "\n"


def section(name: str, row: dict[str, Any]) -> str:
    """One case."""
    plain, ours = row[REFERENCE], row[OURS]
    kinds = sorted({*plain["ops"], *ours["ops"]}, key=lambda kind: -ours["ops"].get(kind, [0, 0])[0])
    total = {who: sum(ms for ms, _ in row[who]["ops"].values()) for who in (REFERENCE, OURS)}
    large = [kind for kind in kinds if ours["ops"].get(kind, [0])[0] >= FEWEST * total[OURS]]
    lines = [[kind, *cells(plain, [kind]), *cells(ours, [kind])] for kind in large]
    lines.append(["others", *(cell for of in (plain, ours) for cell in cells(of, set(kinds) - set(large)))])
    lines.append(["**all**", *(cell for of in (plain, ours) for cell in cells(of, kinds))])
    took = shares(row)
    said = (
        f"A run without the profiler: {plain['run']:.1f} and {ours['run']:.1f} ms, {ours['run'] / plain['run']:.2f} "
        f"forwards. Products alone: {took.products:.2f} × the forward's; the runtime's changes of layout around them: "
        f"{took.layout:.2f} forwards; what the rules add, multiply and divide: {took.rules:.2f}; all else: "
        f"{took.rest:.2f}."
    )
    titles = ("operator", "forward, ms", "nodes", "explainer, ms", "nodes")
    return "\n\n".join((f"## {CASES[name].title}", table(titles, lines, left=1), said))


def cells(of: dict[str, Any], kinds: Any) -> tuple[str, str]:
    """Milliseconds and nodes of some kinds."""
    found = [of["ops"][kind] for kind in kinds if kind in of["ops"]]
    return f"{sum(ms for ms, _ in found):.1f}", str(sum(nodes for _, nodes in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="NAME", default=["vgg16-epsilon"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--file", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.file:
        print(json.dumps(profile(*asked.file, asked.threads, asked.runs)))
        return
    kept = RESULTS / "speed_profile.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    for name in asked.cases:
        console().print(f"{name} …")
        with prepared(CASES[name]) as (folder, _):
            rows[name] = {who: alone(folder / FILES[who], folder / "inputs.1.npz", asked) for who in (REFERENCE, OURS)}
        write_rows(kept, rows)
        write(RESULTS / "speed_profile.md", markdown(rows))
        console().print(section(name, rows[name]))


def alone(path: Path, inputs: Path, asked: Any) -> dict[str, Any]:
    """`profile` in a process of its own: the threads of one session would wait for work beside the other's."""
    options = ["--threads", asked.threads, "--runs", asked.runs, "--file", path, inputs]
    command = processes.command("benchmarks.speed.profile", *options)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=processes.environment())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
