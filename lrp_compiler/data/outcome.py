"""What `explain` has written, read again: rows by class, their relevance as one map or as tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrp_compiler.base.errors import InputError

from .columns import ABSORBED, PREDICTION, TARGET, TOKENS
from .sink import RELEVANCE, read_manifest

CELLS = 32
"""Of a map, on each side, at most: what is finer is added up."""
FLAT, COLOURS = 3, (1, 3, 4)
"""Dims of rows of maps, `[rows, height, width]`, and how many channels pictures have."""
BATCH, MEMORY = 4096, 1 << 26
"""Rows that are read at a time, and bytes of their relevance, at most."""
SIGNS = (".positive", ".negative")


@dataclass(frozen=True)
class Rows:
    """Some rows of one batch.

    Args:
        ids: what tells them apart.
        classes: int `[rows]`: what is explained, or where that is no class what is predicted; −1: none.
        absorbed: float `[rows]`, or None where it is not known.
        maps: float `[rows, *shape]`, or None of texts.
        tokens: of texts, of each row its tokens and their relevance.
    """

    ids: list[object]
    classes: np.ndarray
    absorbed: np.ndarray | None
    maps: np.ndarray | None
    tokens: list[tuple[np.ndarray, np.ndarray]]


class Outcome:
    """A folder of `explain`.

    Args:
        folder: the output.
        input: whose relevance is looked at; None: the only one's.

    Raises:
        InputError: it is no such folder, or its relevance is of a kind that cannot be summed up.
    """

    def __init__(self, folder: str | os.PathLike[str], input: str | None) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise InputError(f"{folder} is no output of lrp-compiler explain: its manifest.json is missing or damaged.")
        self.manifest = manifest
        place = self.folder / RELEVANCE
        if not place.is_dir() or not any(place.glob("*.parquet")):
            raise InputError(f"{folder} has no explanations yet: let lrp-compiler explain run first.")
        self._files = sorted(place.glob("*.parquet"))
        self._schema = pq.read_schema(self._files[0])
        self.input = self._which(input)
        self.is_text = f"{TOKENS}{self.input}" in self._schema.names
        self._values = [name for name in self._parts(self.input) if name in self._schema.names]
        kinds = [self._schema.field(name).type for name in self._values]
        shaped = all(isinstance(kind, pa.FixedShapeTensorType) for kind in kinds)
        if not kinds or not (shaped or self.is_text):
            raise InputError(
                f"Relevance of {self.input!r} is not of one shape, or holds its largest alone: sums need all of it."
            )
        self._class = TARGET if self._known(TARGET) else PREDICTION
        if not pa.types.is_integer(self._schema.field(self._class).type):
            raise InputError("Several targets of a row lie side by side: explain one, for a summary of each class.")

    @property
    def rows(self) -> int:
        """How many were explained."""
        return sum(pq.read_metadata(file).num_rows for file in self._files)

    def classes(self) -> dict[int, int]:
        """Class → rows."""
        found: dict[int, int] = {}
        for batch in self._batches([self._class], BATCH):
            for number, count in zip(*np.unique(batch[0].to_numpy(), return_counts=True), strict=True):
                found[int(number)] = found.get(int(number), 0) + int(count)
        return found

    def read(self) -> Iterator[Rows]:
        """All rows, batch by batch."""
        tokens = [f"{TOKENS}{self.input}"] if self.is_text else []
        columns = ["id", self._class, ABSORBED, *self._values, *tokens]
        for batch in self._batches(columns, max(1, min(BATCH, MEMORY // max(self._bytes(), 1)))):
            absorbed = batch[ABSORBED]
            known = absorbed.null_count == 0 and pa.types.is_floating(absorbed.type)
            arrays = [batch[name] for name in self._values]
            yield Rows(
                batch["id"].to_pylist(),
                batch[self._class].to_numpy(),
                absorbed.to_numpy().astype(np.float64) if known else None,
                None if self.is_text else np.add.reduce([_cells(array.to_numpy_ndarray()) for array in arrays]),
                self._texts(batch, arrays[0]) if self.is_text else [],
            )

    def _batches(self, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """File after file, so many rows at a time: a reader of the whole folder would read ahead."""
        for file in self._files:
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(size, columns=list(columns)):
                    yield batch.select(columns)

    def _bytes(self) -> int:
        """Of the relevance of a row, if it is of one shape."""
        kinds = [self._schema.field(name).type for name in self._values]
        shaped = [kind for kind in kinds if isinstance(kind, pa.FixedShapeTensorType)]
        return sum(math.prod(kind.shape) * kind.value_type.bit_width // 8 for kind in shaped)

    def _texts(self, batch: pa.RecordBatch, relevance: pa.Array) -> list[tuple[np.ndarray, np.ndarray]]:
        ids, values = (_pieces(array) for array in (batch[f"{TOKENS}{self.input}"], relevance))
        if any(len(one) != len(other) for one, other in zip(ids, values, strict=True)):
            raise InputError(
                f"Relevance of {self.input!r} is not of single tokens: a summary of texts needs it of each token."
            )
        return list(zip(ids, values, strict=True))

    def _known(self, name: str) -> bool:
        batch = next(self._batches([name], 1), None)
        return batch is not None and batch[0].to_pylist()[0] not in (None, -1)

    def _which(self, input: str | None) -> str:
        names = [name.removeprefix("sum.") for name in self._schema.names if name.startswith("sum.")]
        if input is not None and input not in names:
            raise InputError(f"There is no relevance of {input!r} here, but of {', '.join(names)}.")
        if input is None and len(names) != 1:
            raise InputError(f"Relevance is of {' and of '.join(names)}: choose with input=, or --input.")
        return input or names[0]

    def _parts(self, input: str) -> list[str]:
        whole = f"relevance.{input}"
        return [whole] if whole in self._schema.names else [f"{whole}{sign}" for sign in SIGNS]


def _cells(values: np.ndarray) -> np.ndarray:
    """A map of each row, of at most `CELLS` on a side: what lies in a cell, and in its channels, is added up."""
    maps = values.astype(np.float64)
    while maps.ndim > FLAT:
        maps = maps.sum(-1 if maps.shape[-1] in COLOURS and maps.shape[1] not in COLOURS else 1)
    step = -(-max(maps.shape[1:]) // CELLS) if maps.ndim == FLAT else 1
    for axis in range(1, maps.ndim if step > 1 else 1):
        maps = np.add.reduceat(maps, np.arange(0, maps.shape[axis], step), axis)
    return maps


def _pieces(array: pa.Array) -> list[np.ndarray]:
    """A column of lists, or of tensors of one dim, row by row."""
    if isinstance(array, pa.FixedShapeTensorArray):
        return list(array.to_numpy_ndarray())
    flat, ends = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    return [flat[start:end] for start, end in pairwise(ends)]
