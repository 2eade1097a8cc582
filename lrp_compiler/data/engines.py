"""Who makes the shards: this process, several of this machine, or a cluster's. A new one is a function, and a line in
`ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import check_option, whole_number

from .cluster import on_ray
from .shards import Shards
from .sink import Counts
from .workers import in_processes

Advance = Callable[[int], None]
"""Is told how many more rows are done."""
Make = Callable[[Shards, Sequence[int], Advance], Generator[Counts]]
"""The job, the numbers of its shards to make, who is told → what is in each shard, as they are done."""
Workers = tuple[int, int]
"""How many there are, at least and at most."""


def embedded(workers: Workers, address: str | None) -> Make:
    """Without an engine: this process, or several that it starts."""
    if workers[0] != workers[1]:
        raise InputError(f'workers from {workers[0]} to {workers[1]} needs engine="ray": without it, give one number.')
    if address is not None:
        raise InputError(f'The address {address} is of a cluster, which needs engine="ray".')
    return _in_this_process if workers[1] == 1 else partial(_in_processes, workers=workers[1])


def clustered(workers: Workers, address: str | None) -> Make:
    """Ray Data, on a cluster that runs, or one of this machine for this job."""
    import ray.data  # noqa: F401  (what is not installed is said before anything is written)

    return lambda shards, numbers, advance: _told(on_ray(shards, numbers, workers, address), advance)


ENGINES: dict[str, Callable[[Workers, str | None], Make]] = {"embedded": embedded, "ray": clustered}
"""Name → workers, address → what makes shards. Raises `InputError` for what the engine cannot do."""


def range_of(workers: Any) -> Workers:
    """One number, or two, as least and most; raises `InputError` for anything else."""
    given = (workers, workers) if whole_number(workers) is not None else workers
    pair = isinstance(given, Sequence) and len(given) == 2 and all(whole_number(one) is not None for one in given)
    check_option(
        "workers", workers, pair and 1 <= given[0] <= given[1], "a whole number from 1 up, or two: least and most"
    )
    return int(given[0]), int(given[1])


def _in_this_process(shards: Shards, numbers: Sequence[int], advance: Advance) -> Generator[Counts]:
    return (shards.make(number, advance) for number in numbers)


def _in_processes(shards: Shards, numbers: Sequence[int], advance: Advance, workers: int) -> Generator[Counts]:
    return _told(in_processes(shards, numbers, min(workers, max(1, len(numbers)))), advance)


def _told(made: Generator[Counts], advance: Advance) -> Generator[Counts]:
    for counts in made:
        advance(counts.rows)
        yield counts
