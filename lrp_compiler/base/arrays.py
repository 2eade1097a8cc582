"""The numpy arrays of a call: made of what is given, cut along the batch, joined again. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .boundary import reason_of
from .errors import InputError
from .specs import TensorSpec
from .validate import not_numbers, whole_number


def to_array(spec: TensorSpec, value: Any) -> np.ndarray:
    """A numpy array; plain Python numbers take the dtype that is wanted, since they have none of their own.

    Raises:
        InputError: it cannot be read as one.
    """
    try:
        array = np.asarray(value)
        whole_numbers = array.dtype.kind == "i" and spec.dtype != "bool"
        fits = whole_numbers or array.dtype.kind == spec.dtype[0] or array.size == 0
        if fits and not hasattr(value, "dtype"):
            array = np.asarray(value, dtype=spec.dtype)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise InputError(not_numbers(spec.name, value, reason_of(error))) from error
    if array.dtype.kind == "O" and (isinstance(value, int) or hasattr(value, "keys")):
        raise InputError(not_numbers(spec.name, value, "overflow"))
    return array


def holds_nan(array: np.ndarray) -> bool:
    """Whether there is a NaN in it."""
    return bool(np.isnan(array).any())


def batch_axes(
    batch_size: int, given: Sequence[TensorSpec], results: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> dict[str, int]:
    """Name → the axis along which that tensor is cut; a tensor without a batch is not listed.

    Args:
        batch_size: at most so many rows in one piece.
        given: what a call takes.
        results: what it returns.
        sizes: of this call.

    Raises:
        InputError: the size is no positive number, or results are not made row by row.
    """
    if (whole_number(batch_size) or 0) < 1:
        raise InputError(f"The batch_size must be a positive integer, not {batch_size!r}.")
    if "batch" not in sizes:
        raise InputError("A batch_size cannot be used: this explainer was compiled for a fixed batch.")
    # A result without a batch may depend on every row, and one with two relates rows to each other.
    whole = [spec for spec in results if spec.shape.count("batch") != 1]
    if whole:
        raise InputError(f"A batch_size cannot be used: the result {whole[0]} is not made row by row.")
    return {spec.name: spec.shape.index("batch") for spec in (*given, *results) if "batch" in spec.shape}


def cut(feeds: Mapping[str, np.ndarray], axes: Mapping[str, int], rows: slice) -> dict[str, np.ndarray]:
    """These rows of the arrays that have an axis of rows; the others whole."""
    return {
        name: array[(slice(None),) * axes[name] + (rows,)] if name in axes else array for name, array in feeds.items()
    }


def joined(pieces: Sequence[Mapping[str, np.ndarray]], axes: Mapping[str, int]) -> Mapping[str, np.ndarray]:
    """The inverse of `cut`, by name."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces], axis=axes[name]) for name in pieces[0]}
