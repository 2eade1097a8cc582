"""Requests that wait are run together: a queue in front of one thread.

Nobody waits for company. What has come while a batch ran is the next batch: the first request that waits, and behind it
those of its kind, as many as fit. So a batch grows with the load, and a single client waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


class Busy(Exception):
    """As many requests wait as may."""


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Work]):
    work: Work
    kind: Hashable
    rows: int
    answer: asyncio.Future[Any]


class Batcher(Generic[Work, Result]):
    """Runs what is handed in, what is of one kind together.

    Args:
        run: a batch of one kind → the result of each, in order; runs in a thread, one at a time.
        rows: in a batch, at most; a request that has more runs alone.
        waiting: requests that may wait.
    """

    def __init__(self, run: Callable[[Sequence[Work]], Sequence[Result]], rows: int, waiting: int) -> None:
        self._run, self._rows, self._most = run, rows, waiting
        self._waiting: deque[_Waiting[Work]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explains")
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    async def __call__(self, work: Work, kind: Hashable, rows: int) -> Result:
        """The result of one piece of work; whoever is cancelled while it waits does not run.

        Args:
            work: what `run` takes.
            kind: what may run together is equal.
            rows: how many it has.

        Raises:
            Busy: too many wait.
            Exception: as `run` raises for it alone.
        """
        if len(self._waiting) >= self._most:
            raise Busy
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(work, kind, rows, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._work())
        return await answer

    def close(self) -> None:
        """End the thread, once what runs has run."""
        self._thread.shutdown()

    async def _work(self) -> None:
        while batch := self._next():
            await self._answer(batch)

    def _next(self) -> list[_Waiting[Work]]:
        """The first that waits, and those of its kind that fit; the others stay in their order."""
        batch: list[_Waiting[Work]] = []
        others: deque[_Waiting[Work]] = deque()
        rows = 0
        for one in self._waiting:
            if one.answer.done():  # whoever asked has given up
                continue
            if not batch or (one.kind == batch[0].kind and rows + one.rows <= self._rows):
                batch.append(one)
                rows += one.rows
            else:
                others.append(one)
        self._waiting = others
        return batch

    async def _answer(self, batch: Sequence[_Waiting[Work]]) -> None:
        """Run a batch; of one that fails each by itself, so that nobody fails by another's fault."""
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._run, [one.work for one in batch])
        except Exception as error:
            if len(batch) == 1:
                if not batch[0].answer.done():
                    batch[0].answer.set_exception(error)
                return
            for one in batch:
                await self._answer([one])
            return
        for one, result in zip(batch, results, strict=True):
            if not one.answer.done():
                one.answer.set_result(result)
