"""Rows of JSON, one a line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import shortened

from .text import is_unicode
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
        self._places: list[tuple[int, int]] = []
        """Bytes and lines in front of a row."""
        first, self.rows, at, lines = b"", 0, 0, 0
        with open(path, "rb") as file:
            for line in file:
                if line.strip():
                    first = first or line
                    if self.rows % _EVERY == 0:
                        self._places.append((at, lines))
                    self.rows += 1
                at += len(line)
                lines += 1
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
                number, line = next(lines)
                row, wrong = _parsed(line)
                rows.append(row)
                if wrong:
                    errors[place] = f"Line {number} {wrong}."
            ids: Any = numbers
            if self._ids is not None:
                wanted: type = str if self.id_type == pa.string() else int
                given = [row.get(self._ids) for row in rows]
                for place, one in enumerate(given):
                    wrong = _wrong_id(one, wanted)
                    if wrong:
                        errors.setdefault(place, f"The id {shortened(one)} {wrong}.")
                        given[place] = None
                ids = pa.array(given, self.id_type)
            yield Window({name: [row.get(name) for row in rows] for name in columns}, ids, numbers, errors)

    def _lines(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """The lines of these rows, with their numbers in the file, from 1 on."""
        known = start // _EVERY
        at, lines = self._places[known]
        with open(self._path, "rb") as file:
            file.seek(at)
            number = known * _EVERY
            for place, line in enumerate(file, lines + 1):
                if number >= stop:
                    return
                if line.strip():
                    if number >= start:
                        yield place, line
                    number += 1


def _wrong_id(given: Any, wanted: type) -> str:
    """What is wrong with an id, to follow "the id"; "" where nothing is."""
    same: bool = type(given) is wanted
    if not same:
        return "is not of the kind of the first row's"
    if isinstance(given, str):
        return "" if is_unicode(given) else "is no Unicode"
    return "" if -LARGEST <= given < LARGEST else "has more than 64 bits"


LARGEST = 1 << 63


def _parsed(line: bytes) -> tuple[dict[str, Any], str]:
    """A row, and what is wrong with it, to follow "the line"."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else str(error).splitlines()[0]
        return {}, f"is no JSON ({said})"
    return (row, "") if isinstance(row, dict) else ({}, "is no JSON object")
