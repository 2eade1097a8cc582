"""Which rows of a window run together: pure functions of sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Shape = tuple[tuple[int, ...], ...]
"""Of one row, its inputs' shapes."""


def batches(shapes: Sequence[Shape] | None, rows: Sequence[int], size: int, filled_up: bool) -> list[list[int]]:
    """Places of rows, batch by batch.

    Args:
        shapes: of every row of the window; None: all are alike.
        rows: places of those that run.
        size: rows in a batch, at most.
        filled_up: whether rows of different shapes may lie in one batch, the short ones filled up.

    Returns:
        Each row once. Rows of one size stay in their order; others come by size, so that little is filled up.
    """
    if shapes is None:
        return [list(rows[at : at + size]) for at in range(0, len(rows), size)]
    ordered = sorted(rows, key=lambda row: shapes[row])
    found: list[list[int]] = []
    for row in ordered:
        fits = found and len(found[-1]) < size and (filled_up or shapes[found[-1][-1]] == shapes[row])
        if fits:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def stacked(values: Any, rows: Sequence[int], filling: int | None, length: int | None) -> np.ndarray:
    """The rows of a batch as one array.

    Args:
        values: of the window: an array, or of each row one.
        rows: which ones.
        filling: what stands behind rows that are too short; None: they are of one shape.
        length: to which they are filled up at least; None: to the longest one's.
    """
    if isinstance(values, np.ndarray):
        first, last = rows[0], rows[-1]
        in_a_row = last - first + 1 == len(rows) and list(rows) == list(range(first, last + 1))
        chosen: np.ndarray = values[first : last + 1] if in_a_row else values[np.asarray(rows)]
        return chosen
    pieces = [values[row] for row in rows]
    if filling is None:
        return np.stack(pieces)
    lengths = np.array([len(piece) for piece in pieces])
    whole = np.full((len(pieces), max(length or 0, lengths.max())), filling, pieces[0].dtype)
    whole[np.arange(whole.shape[1]) < lengths[:, None]] = np.concatenate(pieces)
    return whole


def shapes_of(inputs: Mapping[str, Any], rows: int) -> list[Shape] | None:
    """The shapes of every row's inputs; None: all are alike. A row without an input has none."""
    listed = [values for values in inputs.values() if not isinstance(values, np.ndarray)]
    if not listed:
        return None
    return [tuple(() if values[row] is None else values[row].shape for values in listed) for row in range(rows)]
