"""Many small jobs in processes of their own: whatever becomes of one, the others are done.

A worker is started with some keys and prints a line of JSON for each, `{"key": …}`, after a line `{"start": key}`. One
that falls silent for too long is ended, and one that dies is replaced: its key has a row that says so.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.base import processes

Row = dict[str, Any]


class TooLong(BaseException):
    """The time for one job is over. No `Exception`: nothing that is tried catches it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TooLong` after so many seconds of CPU; other processes on a busy machine do not count."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"not done after {seconds:.0f} s of CPU")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def serve(keys: Iterable[str], job: Callable[[str], Row], *, cpu: int = 300, gigabytes: float = 0) -> None:
    """In the worker: do the jobs, each in a child of this process, which has imported already what they need.

    Args:
        keys: of the jobs.
        job: key → row.
        cpu: seconds of CPU after which a child is ended.
        gigabytes: of memory that a child may take besides what is there; 0: all.
    """
    for key in keys:
        print(json.dumps({"start": key}), flush=True)
        end, start = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.close(end)
            _limit(cpu, gigabytes)
            with os.fdopen(start, "w") as answer:
                try:
                    answer.write(json.dumps({"key": key, **job(key)}))
                except BaseException:
                    traceback.print_exc()
                    answer.flush()
                    os._exit(1)
            os._exit(0)
        os.close(start)
        with os.fdopen(end) as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
        print(text if text.endswith("}") else json.dumps(_ended(key, status, cpu)), flush=True)


def _limit(cpu: int, gigabytes: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    if gigabytes:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _ended(key: str, status: int, cpu: int) -> Row:
    """The row of a child that said nothing."""
    number = os.waitstatus_to_exitcode(status)
    if number in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"key": key, "kind": "hang", "detail": f"ended after {cpu} s of CPU", "signature": ["hang", ""]}
    return {
        "key": key,
        "kind": "crash",
        "detail": f"the process ended with {number}",
        "signature": ["crash", str(number)],
    }


def run(
    command: Callable[[list[str]], list[str]],
    keys: Iterable[str],
    found: Callable[[Row], None],
    *,
    jobs: int = 1,
    chunk: int = 20,
    silence: float = 600,
    log: Path | None = None,
    more: Callable[[], bool] = lambda: True,
) -> None:
    """Do all jobs.

    Args:
        command: keys → the worker's command line.
        keys: of the jobs.
        found: called with each row, by one thread at a time.
        jobs: workers at a time.
        chunk: keys of one worker.
        silence: seconds without a word after which a worker is ended.
        log: what workers print besides.
        more: whether another chunk is started.
    """
    waiting: queue.Queue[list[str]] = queue.Queue()
    left = list(keys)
    for at in range(0, len(left), chunk):
        waiting.put(left[at : at + chunk])
    lock = threading.Lock()

    def work() -> None:
        while more():
            try:
                mine = waiting.get_nowait()
            except queue.Empty:
                return
            while mine and more():
                done = _one(command(mine), silence, log, lambda row: _locked(lock, found, row))
                mine = [key for key in mine if key not in done]

    with ThreadPoolExecutor(jobs) as pool:
        for thread in [pool.submit(work) for _ in range(jobs)]:
            thread.result()


def _locked(lock: threading.Lock, found: Callable[[Row], None], row: Row) -> None:
    with lock:
        found(row)


def _one(command: list[str], silence: float, log: Path | None, found: Callable[[Row], None]) -> set[str]:
    """Run a worker to its end; which keys have a row now."""
    environment = processes.environment(command[0], OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    log = log or Path(os.devnull)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    assert process.stdout is not None
    silent = threading.Event()
    current, done = "", set[str]()

    def end() -> None:
        silent.set()
        process.kill()

    timer = threading.Timer(silence, end)
    timer.start()
    for line in process.stdout:
        timer.cancel()
        timer = threading.Timer(silence, end)
        timer.start()
        if not line.startswith("{"):
            continue
        message = json.loads(line)
        if "start" in message:
            current = message["start"]
            continue
        found(message)
        done.add(message["key"])
        current = ""
    timer.cancel()
    code = process.wait()
    if current:
        kind, detail = (
            ("hang", f"silent for {silence:.0f} s") if silent.is_set() else ("crash", f"the process ended with {code}")
        )
        found({"key": current, "kind": kind, "detail": detail, "signature": [kind, detail]})
        done.add(current)
    elif not done:
        raise RuntimeError(f"The worker ended with {code} before its first job: see {log}.")
    return done


def read_rows(path: Path) -> dict[str, Row]:
    """Rows of earlier runs, by key; a line that was cut off is none."""
    rows: dict[str, Row] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            rows[row["key"]] = row
    return rows


def append_row(path: Path, row: Row) -> None:
    """One more line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
