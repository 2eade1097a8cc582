"""Through Ray: the same files, whoever is killed. `python -m benchmarks.sound.cluster` runs these where Ray is."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.data_sets import (
    BAD,
    ROWS,
    a_job,
    command_line,
    descendants,
    is_whole,
    killed_when,
    started,
)

from lrp_compiler.data import explain
from lrp_compiler.errors import LrpError

ray = pytest.importorskip("ray", reason="Ray has an environment of its own: python -m benchmarks.sound.cluster")

PIECE = 20
PATIENCE = 600
"""Seconds that a job may take on a machine that does other things as well."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An explainer and its data."""
    return a_job(tmp_path_factory.mktemp("job"))


def there(output: Path, shards: int) -> Callable[[], bool]:
    """Whether so many shards are."""
    return lambda: len([*(output / "relevance.parquet").glob("part-*")]) >= shards


def start(folder: Path, output: Path, workers: int = 2, **options: Any) -> subprocess.Popen[bytes]:
    """A job in a process of its own."""
    files = (str(folder / "m.lrp.onnx"), str(folder / "x.npy"), str(output))
    return started(folder, *files, str(PIECE), str(workers), json.dumps({"engine": "ray", **options}))


def ended(process: subprocess.Popen[bytes]) -> str:
    """What a job said, which has to end well."""
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said.decode()
    return said.decode()


def actors(driver: int) -> list[int]:
    return [
        one for one in descendants(driver) if command_line(one).startswith("ray::") and "Maker" in command_line(one)
    ]


# ── a cluster that is there ──────────────────────────────────────────────────────────────────────────────────────────

OWN = """
import json, os, signal, sys
import ray
from lrp_compiler.data import explain
if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    before = signal.getsignal(signal.SIGTERM)
    for job in json.loads(sys.argv[1]):
        if "command" in job:
            print(json.dumps(os.system(job["command"])))
            continue
        try:
            done = explain(**job)
            print(json.dumps([done.rows, done.explained, done.bad, done.resumed]))
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
    print(json.dumps([ray.is_initialized(), signal.getsignal(signal.SIGTERM) is before]))
"""


def on_an_own_cluster(folder: Path, jobs: list[dict[str, Any]]) -> list[Any]:
    """What jobs say one behind the other, in a process that has a cluster already; nothing else is said."""
    (folder / "own.py").write_text(OWN)
    files = {"explainer": str(folder / "m.lrp.onnx"), "data": str(folder / "x.npy")}
    asked = json.dumps([job if "command" in job else {**files, **job} for job in jobs])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        [sys.executable, folder / "own.py", asked], start_new_session=True, env=environment, **pipes
    )
    said, noise = process.communicate(timeout=PATIENCE)
    ours = [line for line in noise.splitlines() if "core_worker.cc" not in line]
    assert (process.returncode, ours) == (0, []), noise
    *answers, (there, same) = map(json.loads, said.splitlines())
    assert there, "the cluster was shut down"
    assert same, "what SIGTERM does was changed"
    return answers


def test_a_users_own_cluster_is_taken_and_left(folder: Path, tmp_path: Path) -> None:
    output, begun = tmp_path / "out", tmp_path / "begun"
    explain(folder / "m.lrp.onnx", folder / "x.npy", begun, shard_rows=1000)
    (begun / "relevance.parquet" / "part-000001.parquet").unlink()
    small: Any = {"engine": "ray", "shard_rows": 1000}

    answers = on_an_own_cluster(
        folder,
        [
            {"output": str(output), "bad": "raise", **small},
            {"output": str(output), "workers": [1, 2], **small},
            {"output": str(output), **small},
            {"output": str(begun), **small},
        ],
    )

    assert answers[0] == ["InputError", f"Row {BAD} cannot be explained: Input 'input' holds NaN."]
    assert answers[1][:3] == [ROWS, ROWS - 1, 1]
    assert answers[2] == [ROWS, ROWS - 1, 1, ROWS]
    assert answers[3] == [ROWS, ROWS - 1, 1, 2000]
    is_whole(folder, output)
    is_whole(folder, begun)


def test_a_disk_that_is_full_is_said_and_what_is_whole_stays(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", disk], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    job: Any = {"output": str(disk / "out"), "engine": "ray", "shard_rows": 300, "workers": 2}
    try:
        before, _, after = on_an_own_cluster(folder, [job, {"command": f"mount -o remount,size=10m {disk}"}, job])

        assert before[0] == "OSError"
        assert "No space left on device" in before[1]
        assert after[:3] == [ROWS, ROWS - 1, 1]
        assert 300 <= after[3] < ROWS
        is_whole(folder, disk / "out")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


# ── a cluster of the job's own ───────────────────────────────────────────────────────────────────────────────────────


def test_a_cluster_for_the_job_says_nothing_and_ends_with_it(folder: Path, tmp_path: Path) -> None:
    process = start(folder, tmp_path / "out")
    seen: set[int] = set()
    while process.poll() is None:
        seen |= {*descendants(process.pid)}
        time.sleep(0.2)

    assert ended(process) == ""
    assert seen
    assert [one for one in seen if "ray" in command_line(one)] == []
    is_whole(folder, tmp_path / "out")


def test_no_cluster_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    process = start(folder, tmp_path / "out", address="127.0.0.1:1")

    _, said = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1
    assert f"{LrpError.__name__}: Cannot reach a Ray cluster at 127.0.0.1:1" in said.decode().splitlines()[-1]


@pytest.mark.heavy
@pytest.mark.parametrize("victim", ["driver", "actor"])
def test_fifteen_kills_of_each_lose_nothing(victim: str, folder: Path, tmp_path: Path) -> None:
    chance, hit = random.Random(0), 0
    for number in range(5):
        output = tmp_path / f"{number}"
        moments = [there(output, at) for at in sorted(chance.sample(range(120), 3))]
        hit += KILLS[victim](folder, output, moments)
        is_whole(folder, output)
    print(f"{victim}: {hit} of 15 kills hit a job that ran")
    assert hit >= 12


def drivers_killed(folder: Path, output: Path, moments: list[Callable[[], bool]]) -> int:
    """Each kill ends the job, and soon its actors; the same call goes on, whether they have ended or not."""
    hit, left_in_all = 0, []
    for ready in moments:
        process = start(folder, output)
        while not ready() and process.poll() is None:
            time.sleep(0.002)
        left = actors(process.pid)
        hit += killed_when(process, ready, lambda pid=process.pid: pid)  # type: ignore[misc]
        process.communicate(timeout=PATIENCE)
        left_in_all += left
    ended(start(folder, output))
    assert gone(left_in_all)
    return hit


def actors_killed(folder: Path, output: Path, moments: list[Callable[[], bool]]) -> int:
    """The job that runs goes on by itself."""
    process = start(folder, output)
    hit = 0
    for ready in moments:
        found: list[int] = []
        while not (ready() and (found := actors(process.pid))) and process.poll() is None:
            time.sleep(0.01)
        if found and process.poll() is None:
            os.kill(random.Random(len(found)).choice(found), signal.SIGKILL)
            hit += 1
    ended(process)
    return hit


KILLS = {"driver": drivers_killed, "actor": actors_killed}


def gone(processes: list[int], seconds: float = 60) -> bool:
    """Whether actors end by themselves."""
    deadline = time.monotonic() + seconds
    while (left := [one for one in processes if "Maker" in command_line(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


@pytest.mark.heavy
def test_a_node_that_dies_takes_nothing_with_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes on this machine, each with an actor: all processes of one are killed at once."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else nodes ask each other for a token that lies at home
    port = free_port()
    head = node(tmp_path, "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
    other = None
    try:
        other = node(tmp_path, f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.2")
        process = start(folder, tmp_path / "out", address=f"127.0.0.1:{port}")
        killed: list[int] = []

        def there_and_working() -> bool:
            return there(tmp_path / "out", 40)() and any("Maker" in command_line(one) for one in descendants(other.pid))

        while not there_and_working() and process.poll() is None:
            time.sleep(0.002)
        killed = [*descendants(other.pid), other.pid]
        for one in killed:
            os.kill(one, signal.SIGKILL)
        alive = process.poll() is None

        ended(process)

        assert alive
        assert len(killed) >= 3
        is_whole(folder, tmp_path / "out")
    finally:
        for leader in filter(None, (head, other)):
            for one in [*descendants(leader.pid), leader.pid]:
                if Path(f"/proc/{one}").exists():
                    os.kill(one, signal.SIGKILL)
            leader.wait()


def node(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """A node of one core, as a process with all that belongs to it."""
    command = [
        Path(sys.executable).parent / "ray",
        "start",
        *options,
        "--num-cpus=1",
        "--block",
        "--disable-usage-stats",
    ]
    command += [f"--object-store-memory={1 << 27}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, start_new_session=True, env=environment, **quiet)  # type: ignore[call-overload]
    deadline = time.monotonic() + PATIENCE / 4
    while not any("raylet" in command_line(one) for one in descendants(process.pid)) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(5)
    return process  # type: ignore[no-any-return]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
