"""Data sets as rows in order: who reads what, by its ending. A new kind is a class, and a line in `SOURCES`.

A source knows how many rows it has and hands out any stretch of them, in windows. It is plain data, so that it can go
to another process, and opens its files where it reads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.seal import file_digest
from lrp_compiler.formats import PARQUET

from .arrays import Arrays
from .json_lines import JsonLines
from .parquet import Parquet
from .photos import PICTURES, Pictures
from .window import Window

_SAMPLE = 1 << 16


class Source(Protocol):
    """Rows in order."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def columns(self) -> Sequence[str]:
        """Their names."""

    @property
    def id_type(self) -> pa.DataType:
        """Of what tells rows apart: int64 or string."""

    @property
    def files(self) -> Sequence[Path]:
        """All that is read."""

    def read(self, start: int, stop: int, size: int, columns: Collection[str]) -> Iterator[Window]:
        """Rows `start` to `stop`, at most `size` at a time, of these columns."""


Opener = Callable[[Path, str | None, Path], Source]
"""Path, the column of ids, the folder of the output → source."""


SOURCES: dict[str, Opener] = {
    ".npy": lambda path, id_column, output: Arrays([path], id_column),
    PARQUET: lambda path, id_column, output: Parquet([path], id_column),
    ".jsonl": lambda path, id_column, output: JsonLines(path, id_column),
    ".ndjson": lambda path, id_column, output: JsonLines(path, id_column),
}
"""Ending → how a file is opened."""
FOLDERS: dict[Collection[str], Opener] = {
    (PARQUET,): lambda path, id_column, output: Parquet(_inside(path, (PARQUET,)), id_column),
    (".npy",): lambda path, id_column, output: Arrays(_inside(path, (".npy",)), id_column),
    PICTURES: lambda path, id_column, output: Pictures(path, output),
}
"""Endings → how a folder with such files is opened; the first that fits."""


def open_source(data: str | os.PathLike[str], id_column: str | None, output: Path) -> Source:
    """A source by its path: a file by its ending, a folder by what is in it.

    Args:
        data: the path.
        id_column: the column that tells rows apart; None: `id` if there is one, else the row's number.
        output: a folder, in which a source may keep a list of its rows.

    Raises:
        FileNotFoundError: there is nothing under the path.
        InputError: it is of no kind that can be read, or has no rows.
    """
    path = Path(data)
    kinds = "a .npy, .parquet or .jsonl file, or a folder of .parquet, of .npy (one for each input) or of pictures"
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path} is neither a file nor a folder (a pipe?): give {kinds}.")
    if path.is_dir():
        opener = next((opener for endings, opener in FOLDERS.items() if _holds(path, endings)), None)
    else:
        opener = SOURCES.get(path.suffix.lower())
    if opener is None:
        raise InputError(f"{path} is no data set: give {kinds}.")
    source = opener(path, id_column, output)
    if not source.rows:
        raise InputError(f"{path} has no rows.")
    return source


def fingerprint(source: Source) -> str:
    """SHA-256 over the names, sizes, beginnings and ends of all files: shows a mix-up, not every change. Of a folder of
    pictures, over their names."""
    if isinstance(source, Pictures):
        return file_digest(source.files[0])
    digest = hashlib.sha256()
    for path in source.files:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size} ".encode(errors="surrogateescape"))
            for at in (0, max(0, size - _SAMPLE)):
                file.seek(at)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _inside(folder: Path, endings: Collection[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.name[0] not in "._")


def _holds(folder: Path, endings: Collection[str]) -> bool:
    """Whether such a file is in the folder: pictures at any depth, others in the folder itself."""
    if endings != PICTURES:
        return bool(_inside(folder, endings))
    return any(Path(name).suffix.lower() in endings for _, _, names in os.walk(folder) for name in names)
