"""Contenders side by side: processes kept alive, whose runs alternate in time."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.base import processes
from benchmarks.speed.cases import CONTENDERS, OURS, REFERENCE, Case
from benchmarks.speed.files import FOLDER
from benchmarks.speed.worker import Worker, WorkerError

WARM_UP = 2
PAUSE = 0.05
"""Seconds between two runs: thread pools spin for a while after each."""
CALM = 0.1
"""Cores that other processes may take."""


def start(name: str, case: Case, folder: Path, threads: int) -> Worker:
    """The contender's process, its model loaded."""
    python = sys.executable
    if CONTENDERS[name].own_environment:
        from benchmarks.base.environment import python as of_peers

        python = str(of_peers())
    asked = (name, json.dumps(case.to_dict()), folder, threads)
    command = processes.command("benchmarks.speed.worker", *asked, python=python)
    return Worker(command, FOLDER / "logs" / f"{case.name}.{name}.log", threads)


def measure(
    case: Case,
    folder: Path,
    names: Sequence[str],
    threads: int,
    batches: Sequence[int],
    runs: int,
    report: Callable[[str], None] = lambda text: None,
) -> dict[int, dict[str, Any]]:
    """Batch → what was measured of the contenders beside the reference, failures included."""
    rows: dict[int, dict[str, Any]] = {batch: {"contenders": {}} for batch in batches}
    others = [name for name in names if name != REFERENCE]
    groups = [others[at : at + case.together] for at in range(0, len(others), case.together)] or [[]]
    for group in groups:
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name in (REFERENCE, *group):
                report(f"{name}: start")
                try:
                    workers[name] = start(name, case, folder, threads)
                    stack.callback(workers[name].close)
                except WorkerError as error:
                    for batch in batches:
                        rows[batch]["contenders"][name] = {"failure": str(error)}
            for before, batch in zip((None, *batches), batches, strict=False):
                if before:
                    known = {name: rows[before]["contenders"][name] for name in workers}
                    left_out = too_large(known, batch / before, available())
                    rows[batch]["contenders"] |= {name: {"failure": reason} for name, reason in left_out.items()}
                    for name in left_out:
                        workers.pop(name).close()
                report(f"batch {batch}: {', '.join(name for name in workers if name != REFERENCE)}")
                found = side_by_side(workers, batch, runs)
                rows[batch]["contenders"] |= found.pop("contenders")
                rows[batch]["others"] = max(found["others"], rows[batch].get("others", 0.0))
                rows[batch]["load"] = max(found["load"], rows[batch].get("load", 0.0))
                if batch == batches[0]:
                    cosines(workers, folder, batch, rows[batch]["contenders"])
    return rows


def too_large(rows: dict[str, dict[str, Any]], times: float, free: float) -> dict[str, str]:
    """Contenders for which a batch so many times as large has no room in `free` MB, with the reason; in order."""
    found = {}
    for name, row in rows.items():
        needed = times * (row["peak"] - row["resident"]) if "peak" in row else 0.0
        if needed > 0.9 * free:
            found[name] = f"left out: it would take about {needed / 1e3:.0f} GB more, and {free / 1e3:.0f} GB are free"
        else:
            free -= needed
    return found


def available() -> float:
    """MB of memory that new values may take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024 / 1e6


def side_by_side(workers: dict[str, Worker], batch: int, runs: int) -> dict[str, Any]:
    """Alternating runs of workers; who fails is left out from then on."""
    found: dict[str, Any] = {}
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}

    def each(act: Callable[[str, Worker], None]) -> None:
        for name, worker in list(workers.items()):
            if name not in found:
                try:
                    act(name, worker)
                except WorkerError as error:
                    found[name] = {"failure": str(error)}

    def warm(name: str, worker: Worker) -> None:
        resident[name] = worker.ask("rest")["resident"]
        for _ in range(WARM_UP):
            worker.ask("run", batch=batch)

    def run(name: str, worker: Worker) -> None:
        time.sleep(PAUSE)
        took = worker.ask("run", batch=batch)
        timed[name].append((took["seconds"], took["cpu"]))

    resident: dict[str, float] = {}
    peaks: dict[str, float] = {}
    load, before, clock = os.getloadavg()[0], busy(workers), time.perf_counter()
    each(warm)
    for _ in range(runs):
        each(run)
    elapsed = time.perf_counter() - clock
    strangers = busy(workers, before) / elapsed
    each(lambda name, worker: peaks.update({name: worker.ask("peak")["peak"]}))
    reference = statistics.median(wall for wall, _ in timed[REFERENCE]) if timed.get(REFERENCE) else None
    for name in workers:
        if name not in found:
            found[name] = summary(timed[name], reference)
            found[name] |= {"peak": round(peaks[name], 1), "resident": round(resident[name], 1)}
    return {"contenders": found, "others": round(max(0.0, strangers), 3), "load": round(load, 2)}


def summary(timed: Sequence[tuple[float, float]], reference: float | None) -> dict[str, Any]:
    """Of (wall, CPU) seconds of runs; `reference`: the median of the forward between them."""
    walls = [wall for wall, _ in timed]
    low, middle, high = statistics.quantiles(walls, n=4, method="inclusive") if len(walls) > 1 else walls * 3
    row = {"seconds": middle, "quartiles": [low, high], "runs": len(walls)}
    row["cpu"] = round(sum(cpu for _, cpu in timed) / sum(walls), 2)
    return row | ({"forward": reference, "ratio": round(middle / reference, 4)} if reference else {})


def busy(workers: dict[str, Worker], since: float = 0.0) -> float:
    """CPU seconds of this machine since it started that were spent by neither the workers nor this process."""
    tick = os.sysconf("SC_CLK_TCK")
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    total = sum(fields) - fields[3] - fields[4]  # idle, waiting
    own = 0
    for process in (os.getpid(), *(worker.process.pid for worker in workers.values())):
        try:
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            own += int(stat[11]) + int(stat[12])
        except OSError:
            pass  # a worker that has ended
    return (total - own) / tick - since


def wait_for_calm(patience: float, report: Callable[[str], None]) -> None:
    """Wait, at most so many seconds, until other processes take less than a tenth of a core for 5 seconds."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        before, clock = busy({}), time.perf_counter()
        time.sleep(5)
        strangers = busy({}, before) / (time.perf_counter() - clock)
        if strangers < CALM:
            return
        report(f"waiting: other processes take {strangers:.1f} cores")


def cosines(workers: dict[str, Worker], folder: Path, batch: int, rows: dict[str, Any]) -> None:
    """How far the peers compute what we do: the cosine of their relevance with that of our file."""
    import numpy as np

    methods = [name for name in workers if name not in (REFERENCE, "torch-forward", "gradient")]
    path = folder / f"relevance.{batch}.npy"
    for name in sorted(methods, key=lambda name: name != OURS):
        if "failure" in rows.get(name, {"failure": ""}):
            continue
        try:
            workers[name].ask(
                "save", batch=batch, path=str(path.with_suffix("") if name == OURS else folder / "theirs")
            )
        except WorkerError:
            continue
        if name != OURS and path.exists():
            ours, theirs = (np.load(file).astype("float64").ravel() for file in (path, folder / "theirs.npy"))
            same = ours.shape == theirs.shape
            cosine = ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)) if same else np.nan
            rows[name]["cosine"] = float(cosine) if np.isfinite(cosine) else None
