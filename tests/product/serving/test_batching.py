"""What runs together: what waits, of one kind, as many as fit; nobody for another's fault, nobody who has given up."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from lrp_compiler.serving.batching import Batcher, Busy


class Runs:
    """Squares numbers, once it may; what ran together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        assert self.may.wait(10)
        if 13 in batch:
            raise ValueError("thirteen")
        return [number**2 for number in batch]


def asked(numbers: list[tuple[int, str, int]], rows: int = 4, waiting: int = 99, give_up: int = -1) -> Any:
    """Results (or errors) of (number, kind, rows), all asked while the first one runs, and what ran together."""
    runs = Runs()

    async def all_of_them() -> list[Any]:
        batcher = Batcher(runs, rows, waiting)
        tasks = []
        for number, kind, size in numbers:
            tasks.append(asyncio.create_task(batcher(number, kind, size)))
            while not runs.batches:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        if give_up >= 0:
            tasks[give_up].cancel()
            await asyncio.sleep(0)
        runs.may.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        batcher.close()
        return found

    return asyncio.run(all_of_them()), runs.batches


def test_what_has_come_while_another_ran_runs_together() -> None:
    results, batches = asked([(1, "a", 1), (2, "a", 1), (3, "a", 2), (4, "a", 1), (5, "a", 1)])

    assert results == [1, 4, 9, 16, 25]
    assert batches == [[1], [2, 3, 4], [5]]  # four rows at most


def test_kinds_are_never_mixed_and_the_oldest_comes_first() -> None:
    results, batches = asked([(1, "a", 1), (2, "b", 1), (3, "a", 1), (4, "b", 1), (5, "a", 1)])

    assert results == [1, 4, 9, 16, 25]
    assert batches == [[1], [2, 4], [3, 5]]


def test_what_is_larger_than_a_batch_runs_alone() -> None:
    assert asked([(1, "a", 1), (2, "a", 9), (3, "a", 1)])[1] == [[1], [2], [3]]


def test_nobody_fails_by_anothers_fault() -> None:
    results, batches = asked([(1, "a", 1), (2, "a", 1), (13, "a", 1), (4, "a", 1)])

    assert results[:2] + results[3:] == [1, 4, 16]
    assert isinstance(results[2], ValueError)
    assert batches == [[1], [2, 13, 4], [2], [13], [4]]


def test_who_has_given_up_does_not_run() -> None:
    results, batches = asked([(1, "a", 1), (2, "a", 1), (3, "a", 1)], give_up=1)

    assert isinstance(results[1], asyncio.CancelledError)
    assert batches == [[1], [3]]


def test_no_more_wait_than_may() -> None:
    results, _ = asked([(1, "a", 1), (2, "a", 1), (3, "a", 1)], waiting=1)

    assert results[:2] == [1, 4]
    assert isinstance(results[2], Busy)


def test_work_goes_on_after_a_pause() -> None:
    async def twice() -> list[int]:
        batcher = Batcher(lambda batch: [number + 1 for number in batch], 4, 4)
        found = [await batcher(number, "a", 1) for number in (1, 2)]
        batcher.close()
        return found

    assert asyncio.run(twice()) == [2, 3]


@pytest.mark.parametrize("kinds", [["a"] * 40, ["a", "b", "c", "d"] * 10])
def test_each_gets_its_own(kinds: list[str]) -> None:
    numbers = [(number, kind, 1 + number % 3) for number, kind in enumerate(kinds, start=20)]

    assert asked(numbers)[0] == [number**2 for number, _, _ in numbers]
