"""A contender in a process of its own, kept alive and told over a pipe to run once; and the parent's end of that pipe.

    parent                        child
    {"do": "run", "batch": 1}     {"seconds": 0.21, "cpu": 0.40}      one run: wall clock, CPU of all threads
    {"do": "rest"}                {"resident": 612.0}                 memory given back; the peak is counted anew
    {"do": "peak"}                {"peak": 1033.5}                    MB (10⁶ bytes), VmHWM since then
    {"do": "save", "batch": 1, "path": "r.npy"}                       what a run gives

A failure is {"failure": "…"}. Only the standard library and numpy: peers' environments run it as well.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.base import processes
from benchmarks.base.places import ROOT

Run = Callable[[dict[str, Any]], Any]
"""Inputs by name, numpy arrays → relevance (or output), a numpy array."""


class WorkerError(RuntimeError):
    """The contender failed, or its process ended."""


# ── the child ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Served:
    """What the child does when it is told to."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run, self._folder = run, folder
        self._inputs: dict[int, dict[str, Any]] = {}

    def run(self, batch: int) -> dict[str, float]:
        inputs = self._of(batch)
        wall, cpu = time.perf_counter(), time.process_time()
        self._run(inputs)
        return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def save(self, batch: int, path: str) -> dict[str, Any]:
        import numpy as np

        np.save(path, self._run(self._of(batch)))
        return {}

    def rest(self) -> dict[str, float]:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return {"resident": _status("VmRSS")}

    def peak(self) -> dict[str, float]:
        return {"peak": _status("VmHWM")}

    def _of(self, batch: int) -> dict[str, Any]:
        import numpy as np

        if batch not in self._inputs:
            self._inputs[batch] = dict(np.load(self._folder / f"inputs.{batch}.npz"))
        return self._inputs[batch]


def _status(key: str) -> float:
    """MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024 / 1e6


def serve(make: Callable[[], Run], folder: Path) -> None:
    """Make the contender, then do what is read from stdin until it ends."""
    # Whatever libraries print must not get between the answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(act: Callable[[], dict[str, Any]]) -> None:
        try:
            found = act()
        except Exception as error:
            traceback.print_exc()
            text = " ".join(str(error).split()).replace(str(ROOT), ".")
            found = {"failure": f"{type(error).__name__}: {text}"[:300]}
        print(json.dumps(found), file=channel, flush=True)

    served: list[Served] = []

    def start() -> dict[str, float]:
        began = time.perf_counter()
        served.append(Served(make(), folder))
        return {"ready": time.perf_counter() - began}

    answer(start)
    for line in sys.stdin:
        command = json.loads(line)
        action = command.pop("do")
        answer(lambda action=action, command=command: getattr(served[0], action)(**command))  # type: ignore[misc]


def main() -> None:
    """`python -m benchmarks.speed.worker CONTENDER CASE FOLDER THREADS`, the case as JSON."""
    from benchmarks.speed.cases import CONTENDERS, Case

    warnings.filterwarnings("ignore")
    name, case, folder, threads = sys.argv[1:]
    given = Case.from_dict(json.loads(case))

    def make() -> Run:
        module = importlib.import_module(f"benchmarks.speed.peers.{CONTENDERS[name].module}")
        made: Run = module.make(name, given, Path(folder), int(threads))
        return made

    serve(make, Path(folder))


# ── the parent's end ─────────────────────────────────────────────────────────────────────────────────────────────────


class Worker:
    """A child process.

    Args:
        command: what runs `serve`.
        log: where its stderr goes.
        threads: for OpenMP.
        timeout: seconds that any answer may take.

    Raises:
        WorkerError: by every method, when the child says that it failed, has ended, or does not answer in time.
    """

    def __init__(self, command: list[str], log: Path, threads: int, timeout: float = 1800.0) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = processes.environment(command[0], OMP_NUM_THREADS=str(threads))
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
            )
        self.timeout = timeout
        try:
            self.ready = float(self._answer()["ready"])
        except WorkerError:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> Mapping[str, Any]:
        """Have one thing done."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"the process ended with {self.process.wait()}") from error
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], self.timeout)[0]:
            self.process.kill()
            raise WorkerError(f"no answer after {self.timeout:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"the process ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if "failure" in found:
            raise WorkerError(found["failure"])
        return found


if __name__ == "__main__":
    main()
