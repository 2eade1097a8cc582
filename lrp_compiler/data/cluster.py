"""Shards on a Ray cluster: Ray Data sends their numbers to actors, which write them; back come counts.

The rows themselves never pass through Ray: whoever makes a shard reads its stretch of the data, and puts the file to
its place in one step. So data, explainer and output lie where all nodes see them under the same path, and the package
is installed on each. What holds when nodes die:

* A shard that its actor did not finish is made anew by another; one that stands is not.
* Two may make one shard at once: an actor on a node that is merely cut off, and its replacement. Each writes to a
  folder of its own and renames, so whichever comes last replaces the same rows by the same. Where the file system
  locks folders between processes of one node alone (NFS does), the later one may clear the earlier one's unfinished
  file away; that one then ends with `FileNotFoundError`, and no file is ever half there.
* A job has one driver. On such a file system a second one on another node is not noticed: do not start it.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from lrp_compiler.base.boundary import boundary, reason_of
from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.quiet import as_before, without_prints_of, without_stderr

from .shards import Shards
from .sink import DRIVER, Counts

DEATHS = 5
"""So many actors may die at one shard; Ray itself would begin it anew for ever."""
TASKS = 4096
"""So many at most are handed out; of a larger job each is several shards."""
IN_FLIGHT = 2
"""Tasks of an actor: one that it is at, one that waits."""
TALKATIVE = ("ray_listen_error_messages", "ray_print_logs")
"""Ray's threads that print what dies, on stdout, where the result of a command belongs."""
SECONDS = 20
"""So long a cluster may take to answer."""
MEMORY = 1 << 27
"""Bytes of the object store of a cluster that is started here: only numbers of shards and counts lie in it."""


def on_ray(shards: Shards, numbers: Sequence[int], workers: tuple[int, int], address: str | None) -> Generator[Counts]:
    """What is in each shard, as they are done.

    Args:
        shards: the job.
        numbers: of the shards to make.
        workers: how many actors, at least and at most.
        address: of a cluster that runs; None: that of the environment's RAY_ADDRESS, else one is started here.

    Raises:
        LrpError: there is no such cluster, or actors die again and again.
        Exception: as `Shards.make`, of the first shard that cannot be made.
    """
    if not numbers:
        return
    import ray

    with _cluster(address, workers[1]):
        cpus = cpus_each([node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]], workers[1])
        made = (
            ray.data.from_items([{SHARD: number} for number in numbers], override_num_blocks=min(len(numbers), TASKS))
            .map_batches(
                Maker,
                fn_constructor_args=(pickle.dumps(shards.elsewhere(cpus)), os.getcwd()),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=workers[0], max_size=workers[1], max_tasks_in_flight_per_actor=IN_FLIGHT
                ),
                num_cpus=cpus,
            )
            .iter_rows()
        )
        try:
            for row in made:
                if row[ERROR] is not None:
                    error, trace = pickle.loads(row[ERROR])
                    raise error from LrpError(trace)
                yield Counts(row["explained"], row["bad"], row["rows"])
        except ray.exceptions.RayError as error:
            raise LrpError(
                f"Ray could not end the job ({reason_of(error)}): what was written stays, and the same call goes on."
            ) from error


SHARD, ERROR = "shard", "error"


class Maker:
    """Makes shards, in an actor of its own; its session is opened where it is made.

    Args:
        job: what `Shards.elsewhere` returned, pickled.
        folder: the driver's, to which relative paths refer.
    """

    def __init__(self, job: bytes, folder: str) -> None:
        with suppress(OSError):  # on a node where it is not, the paths may be absolute
            os.chdir(folder)
        self._failure: bytes | None = None
        try:
            make, arguments = pickle.loads(job)
            self._shards: Shards = make(*arguments)
        except Exception as error:
            self._failure = _packed(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Make the shards whose numbers are in the column `shard`; what is in them, or what went wrong."""
        return pa.Table.from_pylist([self._made(number) for number in batch[SHARD].to_pylist()], SCHEMA)

    def _made(self, number: int) -> dict[str, Any]:
        if self._failure is not None:
            return {ERROR: self._failure}
        try:
            with at_shard(self._shards.sink.folder, number):
                counts = self._shards.sink.whole(number) or self._shards.make(number)
        except Exception as error:
            return {ERROR: _packed(error)}
        return {**vars(counts), ERROR: None}


@contextmanager
def at_shard(folder: Path, number: int) -> Iterator[None]:
    """Note in the output that somebody is at a shard: the notes of those who died there are left, and counted.

    Raises:
        LrpError: too many died.
    """
    notes = folder / DRIVER
    if len([*notes.glob(f"{number}.*")]) >= DEATHS:
        raise LrpError(
            f"Ray's actors ended {DEATHS} times at shard {number}: there may be too little memory (take fewer workers, "
            "or a smaller batch_size)."
        )
    mine = notes / f"{number}.{uuid4().hex}"
    mine.touch()
    try:
        yield
    finally:
        mine.unlink(missing_ok=True)


SCHEMA = pa.schema({"explained": pa.int64(), "bad": pa.int64(), "rows": pa.int64(), ERROR: pa.binary()})
"""Of what comes back of each shard."""


def cpus_each(nodes: Sequence[float], actors: int) -> int:
    """The most CPUs that each of so many actors can have, none of them on two nodes; 1 where not all fit.

    Args:
        nodes: CPUs of each.
        actors: how many there are at most.
    """
    most = int(max(nodes, default=1))
    return next((each for each in range(most, 0, -1) if sum(int(node // each) for node in nodes) >= actors), 1)


@contextmanager
def _cluster(address: str | None, actors: int) -> Iterator[None]:
    """Be connected to a cluster, and quietly; what was started here ends with it."""
    import ray

    with as_before("ray", "ray.data"):
        mine = not ray.is_initialized()
        if mine:
            _connect(address, actors)
        context = ray.data.DataContext.get_current()
        shown = context.enable_progress_bars, context.print_on_execution_start
        context.enable_progress_bars = context.print_on_execution_start = False
        try:
            with without_prints_of(*TALKATIVE):
                yield
        finally:
            context.enable_progress_bars, context.print_on_execution_start = shown
            if mine:
                ray.shutdown()


def _connect(address: str | None, actors: int) -> None:
    import ray

    quietly = {"include_dashboard": False, "log_to_driver": False, "logging_level": "CRITICAL"}
    where = address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {"num_cpus": max(os.cpu_count() or 1, actors), "object_store_memory": MEMORY}
    try:
        host, colon, port = (where or "").rpartition(":")
        if colon and port.isdigit() and "://" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), SECONDS).close()
        # Its C++ part would warn of its own ways on stderr, and of being told not to.
        with _environment(RAY_BACKEND_LOG_LEVEL="fatal"), without_stderr():
            ray.init(where or "local", **quietly, **(local if where in (None, "local") else {}))
    except Exception as error:  # Ray raises plain ones, too
        ray.shutdown()  # of what has started already
        what = f"reach a Ray cluster at {where}" if where else "start Ray on this machine"
        lines = str(error).strip().splitlines()  # a traceback of what it called, sometimes
        reason = reason_of(RuntimeError(lines[-1]) if "Traceback" in str(error) else error)
        raise LrpError(f"Cannot {what}: {reason}.") from error


@contextmanager
def _environment(**more: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update({name: value for name, value in more.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _packed(error: Exception) -> bytes:
    """An error as its sentence, with where it was raised, to be raised in another process."""
    said = boundary("explain the data").said(error)
    trace = "".join(traceback.format_exception(error))
    try:
        packed = pickle.dumps((said, trace))
        pickle.loads(packed)
    except Exception:
        packed = pickle.dumps((LrpError(str(said)), trace))
    return packed
