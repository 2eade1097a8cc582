"""Rows that are in memory at one time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Window:
    """Some rows in a row.

    Args:
        columns: name → values, row by row: an array of numpy or Arrow, or a list.
        ids: what tells rows apart, likewise.
        numbers: of the rows in their source, int64.
        errors: place in the window → what is wrong with a row that cannot be read.
    """

    columns: Mapping[str, Any]
    ids: Any
    numbers: np.ndarray
    errors: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, places: Sequence[int] | np.ndarray) -> Window:
        """Some of the rows, in this order."""
        new = {int(old): place for place, old in enumerate(places)}
        return Window(
            {name: take(values, places) for name, values in self.columns.items()},
            take(self.ids, places),
            self.numbers[np.asarray(places, np.int64)],
            {new[old]: text for old, text in self.errors.items() if old in new},
        )


def take(values: Any, places: Sequence[int] | np.ndarray) -> Any:
    """Some of a column's values."""
    if isinstance(values, list):
        return [values[place] for place in places]
    chosen = np.asarray(places, np.int64)
    return values.take(pa.array(chosen)) if isinstance(values, pa.Array) else values[chosen]


def as_arrow(values: Any) -> pa.Array:
    """A column as Arrow has it; one of several dims as lists of lists."""
    if isinstance(values, pa.Array):
        return values
    return pa.array(list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values)
