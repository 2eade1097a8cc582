"""One shard after another: a stretch of the data, read, explained, and put to its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow.parquet as pq

from lrp_compiler.base.errors import InputError

from .engine import Explain
from .sink import ERRORS, Counts, Sink
from .sources import Source
from .where import Where


@dataclass(frozen=True)
class Shards:
    """A job, shard by shard. It can go to another process; whoever makes a shard needs its number alone.

    Args:
        engine: what explains.
        source: what is read.
        sink: where it goes.
        condition: which rows are meant.
        columns: that are read.
        window: rows that are in memory at a time.
        strict: whether a row that cannot be explained ends the job.
    """

    engine: Explain
    source: Source
    sink: Sink
    condition: Where | None
    columns: Sequence[str]
    window: int
    strict: bool

    @property
    def rows(self) -> int:
        """Of the data, that are asked for."""
        return int(self.sink.manifest["rows"])

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-self.rows // int(self.sink.manifest["shard_rows"]))

    def make(self, number: int, advance: Callable[[int], None] = lambda rows: None) -> Counts:
        """Make a shard, in place of one that is not whole.

        Args:
            number: which one.
            advance: is told how many more rows are done.

        Raises:
            InputError: a row cannot be explained, and the job is strict.
            OSError: it cannot be written.
        """
        size = int(self.sink.manifest["shard_rows"])
        start, stop = number * size, min(self.rows, (number + 1) * size)
        with self.sink.shard(number) as shard:
            for read in self.source.read(start, stop, self.window, self.columns):
                window = read if self.condition is None else self.condition.of(read)
                found, errors = self.engine.rows(window) if len(window) else ({}, {})
                if errors and self.strict:
                    place = min(errors)
                    raise InputError(f"Row {window.numbers[place]} cannot be explained: {errors[place]}")
                shard.write(window.ids, window.numbers, found, errors, len(read))
                advance(len(read))
        return shard.counts

    def elsewhere(self, threads: int) -> tuple[Callable[..., Shards], tuple[Any, ...]]:
        """A function and its arguments that open the job in another process, with so many threads for its session."""
        rest = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "engine"}
        return _opened, (*self.engine.elsewhere(threads), rest)

    def first_error(self) -> str:
        """The sentence of the first row that could not be explained."""
        path = min((self.sink.folder / ERRORS).glob("*.parquet"))
        return str(pq.read_table(path, columns=["error"])["error"][0])


def _opened(make: Callable[..., Explain], arguments: tuple[Any, ...], rest: dict[str, Any]) -> Shards:
    return Shards(engine=make(*arguments), **rest)
