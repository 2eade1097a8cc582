"""Parquet files that the library wrote itself: read whole, and refused in one sentence where they are no such thing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import FormatError


@contextmanager
def table_in(path: str | os.PathLike[str], what: str) -> Iterator[tuple[pa.Table, Mapping[bytes, bytes]]]:
    """The table and its metadata; what goes wrong while they are read is said of the file.

    Args:
        path: of the file.
        what: it should hold: "explanation".

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no such file.
    """
    label = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {label}.")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        yield table, table.schema.metadata or {}
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{label!r} holds no {what}, or is damaged ({reason_of(error)}).") from error
