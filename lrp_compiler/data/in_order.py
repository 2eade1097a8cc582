"""The rows of a data set as an explainer's inputs: batch after batch, in their order, none left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata

from .batches import shapes_of, stacked
from .columns import TARGET, is_open
from .inputs import Inputs
from .preparation import Preparation
from .sources import open_source
from .text import IDS

APART = (TARGET, "seed")
"""What a call says itself."""


class InOrder:
    """Batches of an explainer's inputs by name; rows that stand side by side and have one shape run together.

    Args:
        about: what the explainer's file says.
        data: as `explain` takes it.
        preparation: how rows become inputs. A class and a seed are none of them here: a call says them.
        folder: where a list of pictures may be kept.
        id: the column that tells rows apart.
        limit: only so many of the first rows.
        batch_size: how many rows a batch has, at most.

    Attributes:
        rows: how many there are.
        ids: what tells those apart that have been handed out.

    Raises:
        FileNotFoundError: there are no such data.
        InputError: they are no data set, or do not fit the explainer.
    """

    def __init__(
        self,
        about: Metadata,
        data: str | os.PathLike[str],
        preparation: Preparation,
        folder: Path,
        *,
        id: str | None = None,
        limit: int | None = None,
        batch_size: int,
    ) -> None:
        self._inputs = Inputs(about, preparation, APART)
        self._source = open_source(data, id, folder)
        self.rows = min(self._source.rows, limit or self._source.rows)
        self._columns = list(dict.fromkeys(self._inputs.columns(list(self._source.columns)).values()))
        self._size = batch_size if is_open(about) else int(about.inputs[0].shape[0])
        if not is_open(about) and self.rows % self._size:
            raise InputError(
                f"The explainer takes {self._size} rows at a time, and {counted(self.rows, 'row is|rows are')} no "
                "multiple: compile it with an open batch, or give limit=, on the command line --limit."
            )
        self.ids: list[Any] = []

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Name of an input → `[rows, …]`; raises `InputError` for a row that cannot be read."""
        self.ids = []
        for window in self._source.read(0, self.rows, self._size, self._columns):
            errors = dict(window.errors)
            given = self._inputs.of(window, errors)
            ids = window.ids.to_pylist() if isinstance(window.ids, pa.Array) else np.asarray(window.ids).tolist()
            if errors:
                place = min(errors)
                raise InputError(f"Row {ids[place]}: {errors[place]}")
            for rows in _alike(shapes_of(given, len(window)), len(window)):
                batch = {name: stacked(values, rows, None, None) for name, values in given.items()}
                broken = [name for name, array in batch.items() if array.dtype.kind == "f" and np.isnan(array).any()]
                if broken:
                    raise InputError(f"Input {broken[0]!r} holds NaN, in row {ids[rows[0]]} or one behind it.")
                self.ids += [ids[row] for row in rows]
                yield batch

    def tokens(self, batch: dict[str, np.ndarray]) -> list[str] | None:
        """What the tokens of a batch's first row are called; None: the explainer reads no text, or has no tokenizer."""
        ids = [name for name, kind in self._inputs.texts.items() if kind == IDS and name in batch]
        if self._inputs.tokenizer is None or not ids:
            return None
        return [self._inputs.tokenizer.names.get(int(number), str(number)) for number in batch[ids[0]][0]]


def _alike(shapes: Any, count: int) -> list[list[int]]:
    """Rows side by side that have one shape."""
    found: list[list[int]] = []
    for row in range(count):
        if found and (shapes is None or shapes[found[-1][-1]] == shapes[row]):
            found[-1].append(row)
        else:
            found.append([row])
    return found
