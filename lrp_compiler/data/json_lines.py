"""Rows of JSON, one a line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lrp_compiler.base.errors import InputError

from .window import Window

_EVERY = 1024
"""Of so many lines one is remembered by its place in the file."""


class JsonLines:
    """One JSON object a line; empty lines are no rows. The columns are those of the first.

    Args:
        path: of the file.
        id_column: the column that tells rows apart; None: `id` if there is one, else the row's number.

    Raises:
        InputError: the first line is no object, or has no such column.
    """

    def __init__(self, path: Path, id_column: str | None) -> None:
        self.files = [path]
        self._path = path
        self._places: list[int] = []
        first, self.rows, at = b"", 0, 0
        with open(path, "rb") as file:
            for line in file:
                if line.strip():
                    first = first or line
                    if self.rows % _EVERY == 0:
                        self._places.append(at)
                    self.rows += 1
                at += len(line)
        row, wrong = _parsed(first) if first else ({}, "")
        if wrong:
            raise InputError(f"The first line of {path} {wrong}.")
        self.columns = list(row)
        if id_column is not None and id_column not in row:
            raise InputError(f"There is no column {id_column!r} for the ids: there are {', '.join(self.columns)}.")
        self._ids = id_column or ("id" if "id" in row else None)
        self.id_type = pa.string() if self._ids and isinstance(row[self._ids], str) else pa.int64()

    def read(self, start: int, stop: int, size: int, columns: Collection[str]) -> Iterator[Window]:
        """Rows `start` to `stop`, at most `size` at a time, of these columns; a line that is no JSON is an error."""
        lines = self._lines(start, stop)
        for first in range(start, stop, size):
            numbers = np.arange(first, min(stop, first + size), dtype=np.int64)
            rows, errors = [], {}
            for place in range(len(numbers)):
                row, wrong = _parsed(next(lines))
                rows.append(row)
                if wrong:
                    errors[place] = f"Line {first + place + 1} {wrong}."
            ids: Any = numbers
            if self._ids is not None:
                wanted: type = str if self.id_type == pa.string() else int
                given = [row.get(self._ids) for row in rows]
                for place, one in enumerate(given):
                    if type(one) is not wanted:
                        errors.setdefault(place, f"The id {one!r} is not of the kind of the first row's.")
                ids = pa.array([one if type(one) is wanted else None for one in given], self.id_type)
            yield Window({name: [row.get(name) for row in rows] for name in columns}, ids, numbers, errors)

    def _lines(self, start: int, stop: int) -> Iterator[bytes]:
        """The lines of these rows."""
        known = start // _EVERY
        with open(self._path, "rb") as file:
            file.seek(self._places[known])
            number = known * _EVERY
            for line in file:
                if number >= stop:
                    return
                if line.strip():
                    if number >= start:
                        yield line
                    number += 1


def _parsed(line: bytes) -> tuple[dict[str, Any], str]:
    """A row, and what is wrong with it, to follow "the line"."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"is no JSON ({str(error).splitlines()[0]})"
    return (row, "") if isinstance(row, dict) else ({}, "is no JSON object")
