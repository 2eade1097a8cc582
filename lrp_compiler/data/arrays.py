"""Rows of `.npy` files, each an input of its name; of a single file it is the only one there is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import InputError

from .window import Window


class Arrays:
    """Arrays with as many rows each.

    Args:
        paths: of the files.
        id_column: the name of one of them, whose numbers tell rows apart.

    Raises:
        InputError: a file is no array of numbers, or they have different numbers of rows.
    """

    def __init__(self, paths: Sequence[Path], id_column: str | None) -> None:
        self.files = list(paths)
        self._heads = {path.stem: _head(path) for path in paths}
        names = list(self._heads)
        counts = {head[1][0] for head in self._heads.values()}
        if len(counts) > 1:
            said = ", ".join(f"{name} {head[1][0]}" for name, head in self._heads.items())
            raise InputError(f"The arrays in {paths[0].parent} have different numbers of rows: {said}.")
        if id_column is not None and id_column not in names:
            raise InputError(f"There is no array {id_column!r} for the ids: there are {', '.join(names)}.")
        self._ids = id_column or ("id" if "id" in names and len(names) > 1 else None)
        if self._ids is not None and (
            self._heads[self._ids][0].kind not in "iu" or len(self._heads[self._ids][1]) != 1
        ):
            raise InputError(f"The ids in {self._ids}.npy are no whole numbers, one for each row.")

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(next(iter(self._heads.values()))[1][0])

    @cached_property
    def columns(self) -> list[str]:
        """Names of the files, without their ending."""
        return [name for name in self._heads if name != self._ids]

    @property
    def id_type(self) -> pa.DataType:
        """Whole numbers."""
        return pa.int64()

    def read(self, start: int, stop: int, size: int, columns: Collection[str]) -> Iterator[Window]:
        """Rows `start` to `stop`, at most `size` at a time, of these columns."""
        for first in range(start, stop, size):
            last = min(stop, first + size)
            numbers = np.arange(first, last, dtype=np.int64)
            ids = numbers if self._ids is None else self._read(self._ids, first, last).astype(np.int64)
            yield Window({name: self._read(name, first, last) for name in columns}, ids, numbers)

    def _read(self, name: str, first: int, last: int) -> np.ndarray:
        # A mapped file would stay in memory as it is read, as long as the system has room.
        dtype, shape, offset = self._heads[name]
        row = int(np.prod(shape[1:], dtype=np.int64))
        path = next(path for path in self.files if path.stem == name)
        flat = np.fromfile(path, dtype, (last - first) * row, offset=offset + first * row * dtype.itemsize)
        return flat.reshape(last - first, *shape[1:]).astype(dtype.newbyteorder("="), copy=False)


def _head(path: Path) -> tuple[np.dtype, tuple[int, ...], int]:
    """Dtype, shape, and where the numbers begin."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        raise InputError(f"{path} is no array of numbers ({reason_of(error)}).") from error
    if not isinstance(array, np.memmap) or array.dtype.kind not in "biufc" or not array.ndim:
        raise InputError(f"{path} is no array of numbers with a row for each example.")
    if not array.flags.c_contiguous:
        raise InputError(f"{path} lies column by column: save it by numpy.save(…, numpy.ascontiguousarray(…)).")
    return array.dtype, array.shape, array.offset
