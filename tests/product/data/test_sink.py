"""Whoever is killed, and wherever: after going on, no row is missing, none stands twice, no file is half there."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.data_sets import JOB, ROWS, a_job, children, is_whole, killed_when, of_rows, rows, started

from lrp_compiler.base.seal import file_digest
from lrp_compiler.data import explain
from lrp_compiler.data.sink import KEY
from lrp_compiler.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An explainer and its data."""
    return a_job(tmp_path_factory.mktemp("job"))


def until_done(
    folder: Path, output: Path, workers: int, deaths: list[Callable[[], bool]], of_a_child: bool = False
) -> int:
    """Start a job again and again, each time with a kill at another moment, then let it end; how many were hit."""
    arguments = (str(folder / "m.lrp.onnx"), str(folder / "x.npy"), str(output), "100", str(workers))
    hit = 0
    for ready in deaths:
        process = started(folder, *arguments)
        killed = killed_when(process, ready, lambda pid=process.pid: a_child(pid) if of_a_child else pid)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), said.decode()
        hit += killed
    process = started(folder, *arguments)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    return hit


def a_child(process: int) -> int:
    found = children(process)
    return random.Random(process).choice(found) if found else process


def there(output: Path, shards: int, later: float = 0) -> Callable[[], bool]:
    """Whether so many shards are, since so many seconds."""
    since: list[float] = []

    def ready() -> bool:
        if not since and len([*(output / "relevance.parquet").glob("part-*")]) >= shards:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() >= since[0] + later

    return ready


@pytest.mark.slow
def test_a_killed_job_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    hit = until_done(folder, tmp_path / "out", 1, [there(tmp_path / "out", 3), there(tmp_path / "out", 17)])

    assert hit == 2
    is_whole(folder, tmp_path / "out")


@pytest.mark.heavy
@pytest.mark.parametrize(("workers", "of_a_child"), [(1, False), (2, False), (2, True)])
def test_thirty_kills_lose_nothing(workers: int, of_a_child: bool, folder: Path, tmp_path: Path) -> None:
    chance, hit = random.Random(0), 0
    for number in range(10):  # each job three times
        output = tmp_path / f"{number}"
        moments = [there(output, at, chance.uniform(0, 0.05)) for at in sorted(chance.sample(range(28), 3))]
        hit += until_done(folder, output, workers, moments, of_a_child)
        is_whole(folder, output)
    assert hit >= 25


def test_what_a_kill_left_half_written_is_made_anew(folder: Path, tmp_path: Path) -> None:
    explain(folder / "m.lrp.onnx", folder / "x.npy", tmp_path / "out", shard_rows=1000)
    shards = sorted((tmp_path / "out" / "relevance.parquet").iterdir())
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    shards[2].unlink()
    for whole_or_not in ("part-000000", "part-000002"):  # the former came to its place, and then came the kill
        (shards[0].parent / f".{whole_or_not}.parquet.x1.writing").mkdir()
    (tmp_path / "out" / "errors.parquet" / ".part-000001.parquet.x1.writing").mkdir()

    done = explain(folder / "m.lrp.onnx", folder / "x.npy", tmp_path / "out", shard_rows=1000)

    assert (done.resumed, done.rows) == (1000, 3000)
    is_whole(folder, tmp_path / "out")


def test_every_file_names_its_explainer(folder: Path, tmp_path: Path) -> None:
    explain(folder / "m.lrp.onnx", folder / "x.npy", tmp_path / "out", shard_rows=1500)

    digest = file_digest(folder / "m.lrp.onnx")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["explainer"] == digest
    files = [*(tmp_path / "out" / "relevance.parquet").iterdir(), *(tmp_path / "out" / "errors.parquet").iterdir()]
    assert len(files) == 3
    for path in files:
        assert json.loads(pq.read_metadata(path).metadata[KEY])["explainer"] == digest


def test_another_job_is_refused(folder: Path, tmp_path: Path) -> None:
    of_rows(tmp_path / "other.lrp.onnx", target=1)
    np.save(tmp_path / "x.npy", rows(ROWS, seed=1))
    mine = {"explainer": folder / "m.lrp.onnx", "data": folder / "x.npy", "output": tmp_path / "out", "limit": 64}
    explain(**mine)

    for change, said in [
        ({"explainer": tmp_path / "other.lrp.onnx"}, "another explainer"),
        ({"data": tmp_path / "x.npy"}, "other data"),
        ({"limit": 65}, "another limit"),
        ({"mean": 0.5}, "another preparation"),
        ({"shard_rows": 5}, "shards of another size"),
    ]:
        with pytest.raises(InputError, match=f"was begun with {said}"):
            explain(**{**mine, **change})
    assert explain(**mine, batch_size=3, workers=2).resumed == 64  # how fast it goes is nobody's business


def test_a_folder_with_something_else_is_refused_and_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("…")

    with pytest.raises(InputError, match=r"'thesis\.tex' and no explanations"):
        explain(folder / "m.lrp.onnx", folder / "x.npy", tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_two_at_once_are_refused(folder: Path, tmp_path: Path) -> None:
    from lrp_compiler.data.sink import opened

    with opened(tmp_path / "out"), pytest.raises(InputError, match="Another process is writing"):
        explain(folder / "m.lrp.onnx", folder / "x.npy", tmp_path / "out")


def test_a_full_disk_is_said_and_what_is_whole_stays(folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files: to a writer the same as a disk that is full."""
    output = tmp_path / "out"
    arguments = [str(folder / "m.lrp.onnx"), str(folder / "x.npy"), str(output)]
    explain(*arguments, limit=100, shard_rows=100)
    (tmp_path / "job.py").write_text(JOB.replace("batch_size=8", "limit=100"))
    (output / "relevance.parquet" / "part-000000.parquet").unlink()

    limited = subprocess.run(
        [sys.executable, tmp_path / "job.py", *arguments, "100", "1"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert limited.returncode == 1
    assert b"File too large" in limited.stderr.splitlines()[-1]
    assert list((output / "relevance.parquet").iterdir()) == []
    assert explain(*arguments, limit=100, shard_rows=100).explained == 100


@pytest.mark.heavy
def test_workers_end_with_the_one_who_started_them(folder: Path, tmp_path: Path) -> None:
    process = started(folder, str(folder / "m.lrp.onnx"), str(folder / "x.npy"), str(tmp_path / "out"), "20", "2")
    deadline = time.monotonic() + 30
    while not (found := children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1)
    found = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in found) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert found
    assert [pid for pid in found if Path(f"/proc/{pid}").exists()] == []
