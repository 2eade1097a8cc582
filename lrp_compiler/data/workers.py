"""Shards in several processes. A process that dies costs the shards that all were at: they are made anew."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread

from lrp_compiler.base.errors import LrpError

from .shards import Shards
from .sink import Counts

DEATHS = 3
"""So often in a row processes die without a single shard done."""


def in_processes(shards: Shards, numbers: Sequence[int], workers: int) -> Generator[Counts]:
    """What is in each shard, as they are done.

    Args:
        shards: the job.
        numbers: of the shards to make.
        workers: how many processes.

    Raises:
        LrpError: processes die again and again.
    """
    waiting, deaths = list(reversed(numbers)), 0
    while waiting:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (shards,))
        running: dict[Future[Counts], int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    running[pool.submit(_make, waiting[-1])] = waiting[-1]
                    waiting.pop()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    counts = future.result()
                    del running[future]
                    deaths = 0
                    yield counts
        except BrokenProcessPool as error:
            waiting += sorted(running.values(), reverse=True)
            deaths += 1
            if deaths == DEATHS:
                raise LrpError(
                    f"Worker processes ended {DEATHS} times before one of the shards {sorted(running.values())} was "
                    "done: there may be too little memory (take fewer workers, or a smaller batch_size); and a script "
                    'that asks for workers must stand below `if __name__ == "__main__":`.'
                ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_SHARDS: list[Shards] = []
"""The job of this process."""


def _begin(shards: Shards) -> None:
    _SHARDS[:] = [shards]
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(number: int) -> Counts:
    return _SHARDS[0].make(number)
