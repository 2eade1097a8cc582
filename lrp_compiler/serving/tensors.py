"""Arrays as the Open Inference Protocol writes them: names of dtypes, JSON's lists, and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import shortened, whole_number

DATATYPES = {
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
"""The protocol's name → numpy's; its BYTES and BF16 are none of an explainer's."""
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def datatype(dtype: str) -> str:
    """The protocol's name of one of numpy's dtypes."""
    return _NAMES[dtype]


def dtype_of(name: str, given: Any) -> np.dtype:
    """The dtype that a tensor's `datatype` names, little-endian; raises `InputError` if it names none."""
    if not isinstance(given, str) or given not in DATATYPES:
        raise InputError(f"Input {name!r} has datatype {shortened(given)}: it is one of {', '.join(DATATYPES)}.")
    return np.dtype(DATATYPES[given]).newbyteorder("<")


def shape_of(name: str, given: Any) -> tuple[int, ...]:
    """A tensor's `shape`; raises `InputError` if it is no list of sizes."""
    if not isinstance(given, list) or not all((whole_number(dim) or 0) >= 0 and type(dim) is int for dim in given):
        raise InputError(f"Input {name!r} has shape {shortened(given)}: it is a list of whole numbers from 0 up.")
    return tuple(given)


def from_bytes(name: str, dtype: np.dtype, shape: Sequence[int], content: memoryview) -> np.ndarray:
    """A tensor from its elements in row-major order, which are not copied."""
    wanted = math.prod(shape) * dtype.itemsize
    if len(content) != wanted:
        raise InputError(
            f"Input {name!r} has {counted(len(content), 'byte')} of data, but its shape and datatype make {wanted}."
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def from_json(name: str, dtype: np.dtype, shape: Sequence[int], data: Any) -> np.ndarray:
    """A tensor from JSON: its elements in row-major order, in one list or nested as its shape is.

    Raises:
        InputError: they are no numbers of this dtype, or not as many as its shape says.
    """
    if not isinstance(data, list):
        raise InputError(f"Input {name!r} has no data: give a list of its elements, or binary_data_size.")
    try:
        found = np.asarray(data)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"Input {name!r}: its data cannot be read as an array ({reason_of(error)}).") from error
    if found.size != math.prod(shape):
        raise InputError(f"Input {name!r} has {found.size} elements, but its shape makes {math.prod(shape)}.")
    if found.ndim > 1 and found.shape != tuple(shape):
        raise InputError(f"Input {name!r} has data nested as {list(found.shape)}, but its shape is {list(shape)}.")
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    native = dtype.newbyteorder("=")
    if found.size and found.dtype.kind not in kinds:
        raise InputError(f"Input {name!r} has elements that are no {datatype(native.name)}.")
    with np.errstate(over="ignore", invalid="ignore"):
        array = found.reshape(shape).astype(native)
    lost = (
        not np.isfinite(array).all()
        if dtype.kind == "f"
        else found.size and (array.reshape(-1) != found.reshape(-1)).any()
    )
    if lost:
        raise InputError(f"Input {name!r} holds a number that is out of range for {datatype(native.name)}.")
    return array


def to_bytes(array: np.ndarray) -> bytes:
    """A tensor's elements in row-major order, little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(name: str, array: np.ndarray) -> np.ndarray:
    """A tensor's elements in one list, for orjson.

    Raises:
        InputError: one is not finite, for which JSON has no word.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"Output {name!r} is not finite, and JSON has no NaN and no infinity: ask for it as binary data."
        )
    return np.ascontiguousarray(array).reshape(-1)
