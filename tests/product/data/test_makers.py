"""Whoever makes a shard beside another, on a node that was only cut off for instance: it stands once, and whole."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import errors, of_rows, rows, written
from support.kills import each_kill

from lrp_compiler.base import files
from lrp_compiler.data import Explain
from lrp_compiler.data.cluster import DEATHS, Maker, cpus_each
from lrp_compiler.data.shards import Shards
from lrp_compiler.data.sink import DRIVER, Counts, Shard, Sink
from lrp_compiler.data.sources import open_source
from lrp_compiler.errors import InputError

ROWS, BAD = 40, 7
MANIFEST = {"explainer": "", "data": "", "rows": ROWS, "where": None, "preparation": {}, "shard_rows": ROWS}


@pytest.fixture
def job(tmp_path: Path) -> Shards:
    """A job of one shard, with a row that cannot be explained."""
    x = rows(ROWS)
    x[BAD] = np.nan
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "out" / DRIVER).mkdir(parents=True)
    engine = Explain(of_rows(tmp_path / "m.lrp.onnx"), threads=1)
    source = open_source(tmp_path / "x.npy", None, tmp_path / "out")
    sink = Sink(tmp_path / "out", engine.columns, source.id_type, MANIFEST)
    return Shards(engine, source, sink, None, ["x"], 16, False)


def fill(job: Shards, shard: Shard) -> None:
    """All that a shard has."""
    for window in job.source.read(0, ROWS, 16, ["x"]):
        shard.write(window.ids, window.numbers, *job.engine.rows(window), len(window))


def is_whole(job: Shards) -> None:
    folder = job.sink.folder
    assert job.sink.whole(0) == Counts(ROWS - 1, 1, ROWS)
    assert written(folder)["id"].to_pylist() == [row for row in range(ROWS) if row != BAD]
    assert errors(folder) == {BAD: "Input 'input' holds NaN."}


def test_two_at_one_shard_replace_each_others(job: Shards) -> None:
    with job.sink.shard(0) as first:
        fill(job, first)
        with job.sink.shard(0) as second:
            fill(job, second)
        is_whole(job)
    is_whole(job)
    for kind in ("relevance.parquet", "errors.parquet"):
        assert [path.name for path in (job.sink.folder / kind).iterdir()] == ["part-000000.parquet"]


@pytest.mark.slow
def test_who_is_killed_at_a_shard_that_stands_takes_nothing_away(job: Shards) -> None:
    job.make(0)
    (window,) = job.source.read(0, ROWS, ROWS, ["x"])
    found, wrong = job.engine.rows(window)

    def again() -> None:
        with job.sink.shard(0) as shard:
            shard.write(window.ids, window.numbers, found, wrong, ROWS)

    assert each_kill(again, lambda: is_whole(job)) > 5


def test_where_nodes_do_not_see_each_others_locks_one_of_two_ends_with_an_error(
    job: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over NFS, where a folder's lock is known to one node alone: the later one takes the other for dead."""

    @contextmanager
    def unseen(folder: Path, *, wait: bool) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(files, "held", unseen)

    def two_at_once() -> None:
        with job.sink.shard(0) as first:
            fill(job, first)
            with job.sink.shard(0) as second:
                fill(job, second)

    with pytest.raises(FileNotFoundError):
        two_at_once()
    is_whole(job)


def test_a_shard_whose_errors_are_gone_is_not_whole(job: Shards) -> None:
    job.make(0)
    (job.sink.folder / "errors.parquet" / "part-000000.parquet").unlink()

    assert job.sink.whole(0) is None
    assert job.make(0) == job.sink.whole(0) == Counts(ROWS - 1, 1, ROWS)


def test_an_actor_makes_a_shard_and_leaves_one_that_stands(job: Shards, tmp_path: Path) -> None:
    maker = Maker(pickle.dumps(job.elsewhere(1)), str(tmp_path))

    made = maker(pa.table({"shard": [0]})).to_pylist()

    assert made == [{"explained": ROWS - 1, "bad": 1, "rows": ROWS, "error": None}]
    is_whole(job)
    path = tmp_path / "out" / "relevance.parquet" / "part-000000.parquet"
    before = path.stat().st_ino
    assert maker(pa.table({"shard": [0]})).to_pylist() == made
    assert path.stat().st_ino == before


def test_what_goes_wrong_in_an_actor_comes_back_as_its_sentence(job: Shards, tmp_path: Path) -> None:
    strict = Shards(job.engine, job.source, job.sink, None, ["x"], 16, True)
    packed = pickle.dumps(strict.elsewhere(1))

    (said,) = Maker(packed, str(tmp_path))(pa.table({"shard": [0]})).to_pylist()

    error, trace = pickle.loads(said["error"])
    assert isinstance(error, InputError)
    assert str(error) == f"Row {BAD} cannot be explained: Input 'input' holds NaN."
    assert "in make" in trace

    (tmp_path / "m.lrp.onnx").unlink()
    (said,) = Maker(packed, str(tmp_path))(pa.table({"shard": [0]})).to_pylist()
    assert isinstance(pickle.loads(said["error"])[0], FileNotFoundError)
    assert not pq.ParquetDataset(tmp_path / "out" / "relevance.parquet").files


def test_a_shard_at_which_actors_die_again_and_again_is_given_up(job: Shards, tmp_path: Path) -> None:
    maker = Maker(pickle.dumps(job.elsewhere(1)), str(tmp_path))
    for death in range(DEATHS):
        (tmp_path / "out" / DRIVER / f"0.{death}").touch()
    (tmp_path / "out" / DRIVER / "1.0").touch()

    (said,) = maker(pa.table({"shard": [0]})).to_pylist()

    assert f"ended {DEATHS} times at shard 0" in str(pickle.loads(said["error"])[0])


@pytest.mark.parametrize(
    ("nodes", "actors", "each"),
    [
        ([16], 1, 16),
        ([16], 4, 4),
        ([16], 5, 3),
        ([16, 16], 3, 8),  # 10 would fit only twice
        ([0, 8, 2], 2, 4),
        ([2, 2], 8, 1),  # some wait for nodes that are still to come
        ([], 1, 1),
    ],
)
def test_actors_share_the_cores_of_nodes(nodes: list[float], actors: int, each: int) -> None:
    assert cpus_each(nodes, actors) == each
