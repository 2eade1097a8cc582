"""A data set of 200,000 rows through both engines, beside a loop over the bare session.

    python -m benchmarks.speed.datasets                  # pictures and texts; Ray's environment is made in build/ray
    python -m benchmarks.speed.datasets --rows 20000 --only pictures

All three (the embedded engine, Ray, the loop) are as many processes as there are cores, of one thread each, and take
turns of some seconds: those whose turn it is not are stopped (SIGSTOP). So whatever else the machine does slows all of
them alike. Rates are of whole jobs but for their start: from when every process has written its first file to the end.
Beside the clock stands the processor's own time, of the workers and of the process that leads them: what others do on
the machine does not count there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.base import beside
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.base.processes import command, environment
from benchmarks.base.reporting import write
from benchmarks.speed import dataset_files, dataset_jobs
from benchmarks.speed.dataset_files import Asked

ENGINES = ("embedded", "ray")
MODULE = "benchmarks.speed.dataset_jobs"
SAMPLE = 2000
"""So many rows are compared with what the runtime says of them in memory."""
BILLION = 10**9
DATA: dict[str, Callable[[Path, int], Asked]] = {"pictures": dataset_files.pictures, "texts": dataset_files.texts}
SAID = {
    "pictures": "Fashion-MNIST, 28 × 28 of uint8 in `.npy`; the CNN of `benchmarks/faithful` (234,000 weights), "
    "`epsilon-plus`",
    "texts": "sentences of Rotten Tomatoes in Parquet, at most 64 words; BERT of two layers of 128, `attnlrp`",
}


@dataclass
class Contender:
    """Processes that take turns with others.

    Args:
        leader: the one that was started.
        rows: how many are done so far.
        workers: the processes that calculate.
        start, first: seconds until every worker had written a file, and how many rows that were.
        seconds: of its turns.
        memory: (rows, megabytes) at the end of each turn.
        measured: (rows, seconds of the processor) when it was warm and at the end of each turn.
        used: the processes that were counted.
    """

    leader: subprocess.Popen[bytes]
    rows: Callable[[], int]
    workers: Callable[[], list[int]]
    start: float = 0.0
    first: int = 0
    seconds: float = 0.0
    memory: list[tuple[int, float]] = field(default_factory=list)
    measured: list[tuple[int, float]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    def send(self, number: int) -> None:
        for one in self.workers():
            with suppress(ProcessLookupError):
                os.kill(one, number)

    def end(self) -> None:
        for one in {*self.workers(), self.leader.pid}:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self.leader.wait()

    def megabytes(self) -> float:
        """Resident, of the leader and the workers."""
        pages = 0
        for one in {self.leader.pid, *self.workers()}:
            with suppress(OSError, IndexError):
                pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def calculated(self) -> None:
        """Note rows and seconds of the processor so far, as long as the leader and all its workers live."""
        with suppress(OSError):
            ticks = [_ticks(one) for one in {self.leader.pid, *self.workers(), *self.used}]
            self.used = {self.leader.pid, *self.workers()}
            self.measured.append((self.rows(), sum(ticks) / os.sysconf("SC_CLK_TCK")))

    @property
    def rate(self) -> float:
        return (self.rows() - self.first) / self.seconds

    @property
    def rate_calculating(self) -> float:
        """Rows for each second of the processor."""
        (first, before), *_, (rows, seconds) = self.measured
        return (rows - first) / (seconds - before)

    def slope(self, rows: int) -> float:
        """MB more for every 10,000 rows, behind the first fifth."""
        seen = np.array([one for one in self.memory if one[0] >= rows // 5])
        return float(np.polyfit(seen[:, 0] / 10_000, seen[:, 1], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--only", choices=DATA, help="one of the data sets; prints, and leaves the results as they are")
    parser.add_argument("--turn", type=float, default=5, metavar="SECONDS", help="how long a turn is (default: 5)")
    arguments = parser.parse_args()
    (BUILD / "datasets").mkdir(parents=True, exist_ok=True)
    tables = []
    for name in [arguments.only] if arguments.only else DATA:
        with tempfile.TemporaryDirectory(dir=BUILD / "datasets") as folder:
            tables.append(measured(name, Path(folder), arguments.rows, arguments.turn))
    page = "\n".join(_page(arguments.rows, tables))
    print(page)
    if not arguments.only:
        write(RESULTS / "datasets.md", page)


def measured(name: str, folder: Path, rows: int, turn: float) -> dict[str, Any]:
    """All that is said of a data set."""
    asked = DATA[name](folder, rows)
    cores = os.cpu_count() or 1
    contenders: dict[str, Contender] = {}
    with ExitStack() as stack:
        for who in ("bare session", *ENGINES):
            made = _job(asked, folder, who, cores) if who in ENGINES else _loops(asked, folder, cores)
            stack.callback(made.end)
            contenders[who] = made
        _take_turns(list(contenders.values()), rows, turn)
        for engine in ENGINES:
            assert contenders[engine].leader.wait(120) == 0
    outputs = [folder / engine / "relevance.parquet" for engine in ENGINES]
    return {
        "name": name,
        "cores": cores,
        "rates": {who: one.rate / cores for who, one in contenders.items()},
        "calculating": {who: one.rate_calculating for who, one in contenders.items()},
        "starts": {who: one.start for who, one in contenders.items()},
        "slopes": {who: contenders[who].slope(rows) for who in ENGINES},
        "memory": {who: max(one for _, one in contenders[who].memory) for who in ENGINES},
        "beside memory": _beside_memory(asked, outputs[0], rows),
        "beside each other": _beside_each_other(*outputs),
        "bytes": sum(path.stat().st_size for path in outputs[0].iterdir()) / rows,
        "shard rows": _default_shard(asked, folder),
    }


def _loops(asked: Asked, folder: Path, cores: int) -> Contender:
    """The bare session, a process for each core, under one that does nothing; stopped at once when it is warm."""
    counters = [folder / f"counter{number}" for number in range(cores)]
    processes = []
    for counter in counters:
        np.zeros(1, np.int64).tofile(counter)
        line = command(MODULE, "bare", json.dumps({**asked, "counter": str(counter)}))
        processes.append(subprocess.Popen(line, env=_single()))

    def rows() -> int:
        return sum(int(np.fromfile(counter, np.int64)[0]) for counter in counters)

    started = time.monotonic()
    while not all(np.fromfile(counter, np.int64)[0] for counter in counters):
        assert all(one.poll() is None for one in processes)
        time.sleep(0.05)
    made = Contender(processes[0], rows, lambda: [one.pid for one in processes if one.poll() is None])
    return _warm(made, started)


def _job(asked: Asked, folder: Path, engine: str, cores: int) -> Contender:
    """A job, stopped when each of its workers has written a file."""
    output, shard = (
        folder / engine,
        min(dataset_jobs.WINDOW, asked["rows"] // 8),
    )  # a step of the count of rows that are done
    options = {**asked["options"], "shard_rows": shard, "workers": cores, "engine": engine}
    job = {**asked, "output": str(output), "options": options}
    interpreter = beside.with_extra("ray")
    started = time.monotonic()
    line = command(MODULE, "job", json.dumps(job), python=interpreter)
    leader = subprocess.Popen(line, env=environment(interpreter, OMP_NUM_THREADS="1"))

    def rows() -> int:
        return min(asked["rows"], shard * len([*(output / "relevance.parquet").glob("part-*")]))

    made = Contender(leader, rows, lambda: _workers(leader.pid, engine))
    while rows() < shard * cores:
        assert leader.poll() is None
        time.sleep(0.05)
    return _warm(made, started)


def _warm(contender: Contender, started: float) -> Contender:
    contender.send(signal.SIGSTOP)
    contender.start, contender.first = time.monotonic() - started, contender.rows()
    contender.calculated()
    return contender


def _workers(leader: int, engine: str) -> list[int]:
    """The processes of a job that calculate: those that multiprocessing spawned, or Ray's actors."""
    mark = {"embedded": "spawn_main", "ray": "Maker"}[engine]
    found = [one for one in _descendants(leader) if mark in _command_line(one)]
    return found or ([leader] if engine == "embedded" else [])


def _ticks(process: int) -> int:
    """Of the processor, in the program and for it in the kernel."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def _descendants(process: int) -> list[int]:
    try:
        children = list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))
    except OSError:
        return []
    return children + [one for child in children for one in _descendants(child)]


def _command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _take_turns(contenders: list[Contender], rows: int, turn: float) -> None:
    """Until both jobs are done; the loop goes on as long as anybody does."""
    for contender in contenders:
        contender.send(signal.SIGSTOP)
    loop, *jobs = contenders
    while any(job.rows() < rows for job in jobs):
        for contender in contenders:
            if contender is not loop and contender.rows() >= rows:
                continue
            contender.send(signal.SIGCONT)
            begun = time.monotonic()
            while time.monotonic() < begun + turn and (contender is loop or contender.rows() < rows):
                time.sleep(0.01)
            contender.send(signal.SIGSTOP)
            contender.seconds += time.monotonic() - begun
            contender.memory.append((contender.rows(), contender.megabytes()))
            contender.calculated()
    for contender in contenders:
        contender.send(signal.SIGCONT)


def _single() -> dict[str, str]:
    return environment(OMP_NUM_THREADS="1")


def _beside_memory(asked: Asked, output: Path, rows: int) -> float:
    """The largest difference from what the runtime says of some rows, of the largest value."""
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(SAMPLE, rows), replace=False))
    wanted = dataset_jobs.in_memory(asked, chosen)
    gap = largest = 0.0
    for path in sorted(output.iterdir()):
        table = pq.read_table(path)
        name = next(column for column in table.column_names if column.startswith("relevance."))
        ids = table["id"].to_numpy()
        for place in np.flatnonzero(np.isin(ids, chosen)).tolist():
            found = np.asarray(table[name][place].as_py(), np.float32).reshape(-1)
            expected = wanted[int(ids[place])].reshape(-1)
            gap = max(gap, float(np.abs(found - expected).max()))
            largest = max(largest, float(np.abs(expected).max()))
    return gap / largest


def _beside_each_other(one: Path, other: Path) -> int:
    """Rows in which two outputs differ in a bit."""
    differ = 0
    for path in sorted(one.iterdir()):
        tables = pq.read_table(path), pq.read_table(other / path.name)
        if not tables[0].equals(tables[1]):
            rows = zip(tables[0].to_pylist(), tables[1].to_pylist(), strict=True)
            differ += sum(mine != theirs for mine, theirs in rows)
    return differ


def _default_shard(asked: Asked, folder: Path) -> int:
    """Rows of a file if nobody says otherwise."""
    job = {**asked, "output": str(folder / "default"), "options": {**asked["options"], "limit": 64}}
    subprocess.run(command(MODULE, "job", json.dumps(job)), env=_single(), check=True)
    return int(json.loads((folder / "default" / "manifest.json").read_text())["shard_rows"])


def _page(rows: int, tables: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"# {rows:,} rows through both engines",
        "",
        f"`python -m benchmarks.speed.datasets`: {tables[0]['cores']} processes of one thread on as many cores, and a",
        "loop over the bare session on arrays that lie ready; they take turns of some seconds. The loop neither reads,",
        "scales, cuts into tokens, adds up nor writes. Rates are rows a second and core, behind the start;",
        "*by CPU time*: rows for each second of the processor, of workers and leader, as a share of the loop's.",
        "",
        "| data | | rate | of the loop | by CPU time | seconds to the first files | MB for 10,000 more | MB at most |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for table in tables:
        for who, rate in table["rates"].items():
            share, calculating = (table[key][who] / table[key]["bare session"] for key in ("rates", "calculating"))
            more = [f"{table[key][who]:{form}}" if who in table[key] else "" for key, form in FORMS.items()]
            lines.append(
                f"| {table['name']} | {who} | {rate:,.0f} | {share:.2f} | {calculating:.2f} | {' | '.join(more)} |"
            )
    lines += ["", *(f"- {table['name']}: {SAID[table['name']]}." for table in tables)]
    for table in tables:
        lines += [
            f"- Of {min(SAMPLE, rows):,} of the {table['name']}, by chance, relevance differs from what the runtime",
            f"  says in memory by {table['beside memory']:.1e} of the largest value at most; of all {rows:,} the two",
            f"  engines' rows differ in {table['beside each other']:,}.",
        ]
    lines += [
        "",
        "## A billion rows",
        "",
        "<!-- billion: written by benchmarks/speed/datasets.py -->",
        *_billion(tables),
    ]
    return [*lines, "<!-- end of billion -->", ""]


FORMS = {"starts": ".0f", "slopes": "+.2f", "memory": ",.0f"}


def _billion(tables: list[dict[str, Any]]) -> list[str]:
    """The arithmetic of the page, with the rates that were measured."""
    titles = ("data, engine", "rows a second and core", "core-hours", "on 1,000 cores", "bytes of a row", "bytes")
    lines = [f"| {' | '.join((*titles, 'rows of a file', 'files'))} |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for table in tables:
        for engine in ENGINES:
            rate, size, shard = table["rates"][engine], table["bytes"], table["shard rows"]
            hours = BILLION / rate / 3600
            numbers = [f"{rate:,.0f}", f"{hours:,.0f}", f"{hours * 60 / 1000:,.1f} minutes", f"{size:,.0f}"]
            numbers += [f"{size * BILLION / 1e12:,.2f} TB", f"{shard:,}", f"{-(-BILLION // shard):,}"]
            lines.append(f"| {table['name']}, {engine} | {' | '.join(numbers)} |")
    return lines


if __name__ == "__main__":
    main()
