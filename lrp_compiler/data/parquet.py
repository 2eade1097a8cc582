"""Rows of Parquet files, in the order of their names."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import InputError

from .window import Window

_BUFFER = 1 << 20
"""Bytes that are read at once: row groups may be larger than memory."""


class Parquet:
    """Files of one schema.

    Args:
        paths: of the files.
        id_column: the column that tells rows apart; None: `id` if there is one, else the row's number.

    Raises:
        InputError: a file is no Parquet, they have different columns, or there is no such column.
    """

    def __init__(self, paths: Sequence[Path], id_column: str | None) -> None:
        self.files = list(paths)
        self._groups: list[tuple[int, int]] = []
        rows = []
        for number, path in enumerate(paths):
            with _opened(path) as file:
                schema = file.schema_arrow
                metadata = file.metadata
            if number == 0:
                self._schema = schema.remove_metadata()
            elif schema.remove_metadata() != self._schema:
                raise InputError(f"{path} has other columns than {paths[0].name}: give files of one schema.")
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group))
                rows.append(metadata.row_group(group).num_rows)
        self._ends = list(accumulate(rows))
        names = self._schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{paths[0]} has several columns {twice[0]!r}: rename them.")
        if id_column is not None and id_column not in names:
            raise InputError(f"There is no column {id_column!r} for the ids: there are {', '.join(names)}.")
        self._ids = id_column or ("id" if "id" in names else None)
        kind = None if self._ids is None else self._schema.field(self._ids).type
        whole = kind is None or pa.types.is_integer(kind)
        if kind is not None and not whole and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(f"The ids in column {self._ids!r} are neither whole numbers nor texts, but {kind}.")
        self.id_type = pa.int64() if whole else pa.string()
        self._cursor: Any = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._ends[-1] if self._ends else 0

    @property
    def columns(self) -> list[str]:
        """Their names, that of the ids among them."""
        return list(self._schema.names)

    def read(self, start: int, stop: int, size: int, columns: Collection[str]) -> Iterator[Window]:
        """Rows `start` to `stop`, at most `size` at a time, of these columns."""
        wanted = list(dict.fromkeys([*columns, *([self._ids] if self._ids else [])]))
        for first, batch in self._batches(start, stop, size, wanted):
            numbers = np.arange(first, first + len(batch), dtype=np.int64)
            ids = numbers if self._ids is None else self._ids_of(batch)
            yield Window({name: batch.column(name) for name in columns}, ids, numbers)

    def _ids_of(self, batch: pa.RecordBatch) -> pa.Array:
        """What tells rows apart; raises `InputError` where a number has more bits than 63."""
        try:
            return batch.column(self._ids).cast(self.id_type)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"An id in column {self._ids!r} is too large ({reason_of(error)}): make them texts."
            ) from error

    def _batches(self, start: int, stop: int, size: int, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Pieces of the rows with the number of each one's first; who reads on finds the file where he left it."""
        at, rest, stream = start, None, None
        if self._cursor is not None and self._cursor[:2] == (columns, size) and self._cursor[2] <= start:
            _, _, at, rest, stream = self._cursor
        if stream is None or self._group(at) < self._group(start) - 1:
            group = self._group(start)
            at, rest = self._ends[group - 1] if group else 0, None
            stream = self._stream(group, size, columns)
        self._cursor = None
        while at < stop:
            batch = rest if rest is not None else next(stream)
            rest = None
            if at + len(batch) <= start:
                at += len(batch)
                continue
            if at < start:
                batch, at = batch.slice(start - at), start
            if at + len(batch) > stop:
                batch, rest = batch.slice(0, stop - at), batch.slice(stop - at)
            yield at, batch
            at += len(batch)
        self._cursor = (columns, size, at, rest, stream)

    def _group(self, row: int) -> int:
        return bisect_right(self._ends, row)

    def _stream(self, group: int, size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Row group after row group, from one on."""
        first, _ = self._groups[group]
        for number in range(first, len(self.files)):
            groups = [inside for file, inside in self._groups[group:] if file == number]
            with _opened(self.files[number]) as file, _named(self.files[number]):
                yield from file.iter_batches(batch_size=size, row_groups=groups, columns=columns)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open."""
        return {**vars(self), "_cursor": None}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever pyarrow says of damage, with the name of the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged ({reason_of(error)}).") from error


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except pa.ArrowException as error:
        raise InputError(f"{path} is no Parquet file ({reason_of(error)}).") from error
