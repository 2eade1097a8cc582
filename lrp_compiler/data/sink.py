"""The folder of results: shards that are whole or not there, and what they were made by and of.

    OUT/manifest.json              what was explained by what, and how; once all is done, how much
    OUT/relevance.parquet/         part-000000.parquet, …: the rows of one stretch of the data each
    OUT/errors.parquet/            likewise, of those that could not be explained: row, id, error

Both folders are data sets of their own to every reader of Parquet. Of a stretch its errors come to their place first,
then its shard: where the shard stands, all of the stretch does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_path, clear_left, held
from lrp_compiler.formats import PARQUET

from .columns import Column
from .photos import LIST
from .window import as_arrow

MANIFEST, RELEVANCE, ERRORS, DRIVER = "manifest.json", "relevance.parquet", "errors.parquet", ".driver"
BEFORE_MANIFEST = (LIST,)
"""What may be in a folder whose job was killed before it wrote the manifest."""
KEY = b"lrp_compiler"
"""Of every file's metadata: JSON."""
GENERATOR = "lrp_compiler explain"
COMPARED = {
    "explainer": "another explainer",
    "data": "other data",
    "rows": "another limit, or other data",
    "where": "another condition (where)",
    "id": "another column of ids",
    "preparation": "another preparation of its inputs",
    "shard_rows": "shards of another size",
}
"""What must be the same to go on → what to say where it is not."""


@dataclass(frozen=True)
class Counts:
    """How many rows were explained, how many could not be, and how many were asked for, of one shard or of all."""

    explained: int = 0
    bad: int = 0
    rows: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.explained + other.explained, self.bad + other.bad, self.rows + other.rows)


@dataclass(frozen=True)
class Sink:
    """Where results go.

    Args:
        folder: of the output.
        columns: of a row.
        id_type: of what tells rows apart.
        manifest: what they are made by and of.
    """

    folder: Path
    columns: Sequence[Column]
    id_type: pa.DataType
    manifest: Mapping[str, Any]

    def whole(self, number: int) -> Counts | None:
        """What is in a shard that is there, of the same making; None: it is to be made."""
        try:
            with pq.ParquetFile(self._shard(number)) as file:
                said = json.loads((file.metadata.metadata or {})[KEY])
                counts = Counts(**said["counts"])
                sound = said["shard"] == number and counts.explained == file.metadata.num_rows
        except (FileNotFoundError, pa.ArrowException, KeyError, ValueError, TypeError):
            return None
        same = all(said.get(key) == self.manifest.get(key) for key in COMPARED)
        beside = not counts.bad or self._errors(number).exists()
        return counts if sound and same and beside else None

    @contextmanager
    def shard(self, number: int) -> Iterator[Shard]:
        """A shard to write to; it comes to its place, with its errors, when the block ends without an error."""
        errors = self._errors(number)
        self._shard(number).parent.mkdir(exist_ok=True)
        with atomic_path(self._shard(number)) as temporary:
            with pq.ParquetWriter(temporary, self._schema(), compression="snappy", use_dictionary=False) as writer:
                shard = Shard(self, writer)
                yield shard
                said = {**self.manifest, "shard": number, "counts": asdict(shard.counts)}
                writer.add_key_value_metadata({KEY: json.dumps(said, sort_keys=True).encode()})
            _on_disk(temporary)
            # Replaced and never taken away first: another may make the same shard, and have put it to its place.
            if shard.errors:
                errors.parent.mkdir(exist_ok=True)
                self._write_errors(errors, shard.errors)
            else:
                errors.unlink(missing_ok=True)

    def _write_errors(self, path: Path, errors: Sequence[tuple[int, Any, str]]) -> None:
        rows, ids, texts = (list(part) for part in zip(*errors, strict=True))
        kinds = {"row": pa.int64(), "id": self.id_type, "error": pa.string()}
        about = {KEY: json.dumps(dict(self.manifest), sort_keys=True).encode()}
        with atomic_path(path) as temporary:
            pq.write_table(pa.table([rows, ids, texts], schema=pa.schema(kinds, metadata=about)), temporary)
            _on_disk(temporary)

    def _schema(self) -> pa.Schema:
        fields = [pa.field("id", self.id_type), *(pa.field(column.name, column.arrow) for column in self.columns)]
        return pa.schema(fields)

    def _shard(self, number: int) -> Path:
        return self.folder / RELEVANCE / f"part-{number:06}{PARQUET}"

    def _errors(self, number: int) -> Path:
        return self.folder / ERRORS / self._shard(number).name


class Shard:
    """An open shard.

    Args:
        sink: whose it is.
        writer: of its file.
    """

    def __init__(self, sink: Sink, writer: pq.ParquetWriter) -> None:
        self._sink, self._writer = sink, writer
        self.errors: list[tuple[int, Any, str]] = []
        self.counts = Counts()

    def write(self, ids: Any, numbers: Any, found: Mapping[str, Any], errors: Mapping[int, str], asked: int) -> None:
        """Append a window's rows.

        Args:
            ids: of its rows.
            numbers: of the rows in the data.
            found: column → values, as `Explain.rows` returns them.
            errors: place → what is wrong with a row.
            asked: rows of the data that the window stands for, those that a condition left out among them.
        """
        self.counts += Counts(len(numbers) - len(errors), len(errors), asked)
        if not len(numbers):
            return
        good = [place for place in range(len(numbers)) if place not in errors]
        names = as_arrow(ids)
        arrays = [column.array(found[column.name][good]) for column in self._sink.columns]
        chosen = names.take(pa.array(good, pa.int64())).cast(self._sink.id_type)
        self._writer.write_batch(pa.record_batch([chosen, *arrays], schema=self._writer.schema))
        self.errors += [(int(numbers[place]), names[place].as_py(), errors[place]) for place in sorted(errors)]


@contextmanager
def opened(folder: Path) -> Iterator[Mapping[str, Any] | None]:
    """Have a folder for this process alone, and see what the manifest in it says; None: nothing is explained there yet.

    Raises:
        InputError: another process has it, or something else is in it.
    """
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {folder}: there is no folder {folder.parent}.")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"Cannot write {folder}: it is no folder.")
    (folder / DRIVER).mkdir(parents=True, exist_ok=True)
    with held(folder / DRIVER, wait=False) as mine:
        if mine is False:
            raise InputError(f"Another process is writing to {folder}: wait for it, or choose another folder.")
        before = read_manifest(folder)
        foreign = [name for name in sorted(os.listdir(folder)) if name[0] != "." and name not in BEFORE_MANIFEST]
        if before is None and foreign:
            (folder / DRIVER).rmdir()
            if {MANIFEST, RELEVANCE, ERRORS}.intersection(foreign):
                raise InputError(
                    f"{folder} holds explanations whose {MANIFEST} is missing or damaged, so nobody can tell what of: "
                    "put it back, or choose another folder for the output."
                )
            raise InputError(
                f"{folder} holds {foreign[0]!r} and no explanations: choose another folder for the output."
            )
        for note in (folder / DRIVER).iterdir():  # of actors that died
            note.unlink(missing_ok=True)
        _clear_left(folder)  # of a shard that came to its place just before a kill: nobody writes it again
        begun = any(any((folder / kind).glob("*.parquet")) for kind in (RELEVANCE, ERRORS))
        yield before if begun else None  # where nothing is written yet, options may be mended
        _clear_left(folder)  # of workers that outlived an earlier job's driver for a while


def _clear_left(folder: Path) -> None:
    for kind in (RELEVANCE, ERRORS):
        clear_left(folder / kind)


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """What a folder's manifest says; None: there is none of this making."""
    try:
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("generator") == GENERATOR else None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Put the manifest to its place in one step."""
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _on_disk(temporary)


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another job; raises `InputError`."""
    for key, what in COMPARED.items():
        if before.get(key) != now[key]:
            raise InputError(
                f"{folder} was begun with {what}: finish it as it was begun, or choose another folder for the output."
            )


def _on_disk(path: Path) -> None:
    """Wait until a file would outlive a loss of power."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
