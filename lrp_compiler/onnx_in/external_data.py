"""Weights beside an ONNX file: mapped into memory, and read from nowhere but the file's own folder."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor

from lrp_compiler.base.errors import FormatError

from .tensors import BITS, SMALL, as_tensor, check_shape, dtype_of, tensor_of


def is_external(proto: TensorProto) -> bool:
    """Whether its values lie in another file."""
    return bool(proto.data_location == TensorProto.EXTERNAL)


def weights_of(proto: TensorProto, folder: Path | None) -> Tensor:
    """The values of a tensor, wherever they lie.

    Args:
        proto: the tensor as the file has it.
        folder: the file's own; None of a model that is in memory.

    Raises:
        FormatError: values that are outside the folder, not there, or fewer than the shape says.
    """
    what = f"Initialiser {proto.name!r}"
    if not is_external(proto):
        return tensor_of(proto, what)
    if folder is None:
        raise FormatError(f"{what} lies in another file, and a model in memory has no folder: give the file's path.")
    said = {entry.key: entry.value for entry in proto.external_data}
    file = _inside(folder, said.get("location", ""), what)
    offset, length = _number(said, "offset", what), _number(said, "length", what)
    return _mapped(proto, file, offset or 0, length, what)


def _inside(folder: Path, location: str, what: str) -> Path:
    """The file of that name in the folder.

    A link is not followed, wherever it leads, so that what is read is what is there.
    """
    named = Path(location)
    steps = named.parts
    outside = FormatError(
        f"{what} lies in {location!r}, outside the model's own folder or behind a link, where nothing is read."
    )
    if not steps or named.is_absolute() or ".." in steps or "\\" in location or ":" in location or "\0" in location:
        raise outside
    place = folder
    for step in steps:
        place = place / step
        if place.is_symlink():
            raise outside
    if not place.is_file():
        raise FormatError(f"{what} lies in {location!r}, and there is no such file beside the model.")
    return place


def _number(said: dict[str, str], key: str, what: str) -> int | None:
    text = said.get(key, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise FormatError(f"{what} lies at {key} {text!r} of another file, which is no number of bytes.")
    return int(text)


def _mapped(proto: TensorProto, file: Path, offset: int, length: int | None, what: str) -> Tensor:
    dtype = dtype_of(proto.data_type, what)
    shape = tuple(proto.dims)
    check_shape(shape, what)
    if proto.data_type in SMALL:  # several in a byte
        packed = TensorProto(data_type=proto.data_type, dims=shape, name=proto.name)
        with open(file, "rb") as stream:
            stream.seek(offset)
            packed.raw_data = stream.read(length if length is not None else prod(shape))
        return tensor_of(packed, what)
    stored = np.dtype(BITS[dtype]) if dtype in BITS else helper.tensor_dtype_to_np_dtype(proto.data_type)
    needed = prod(shape) * stored.itemsize
    if offset + needed > os.path.getsize(file) or (length is not None and length < needed):
        raise FormatError(f"{what} does not hold as many values as its shape says: {file.name!r} is too short.")
    if not needed:
        return as_tensor(np.empty(shape, stored), dtype)
    # Copied only where it is written to, which the file never sees.
    return as_tensor(np.memmap(file, stored, "c", offset, shape if shape else (1,)).reshape(shape), dtype)


def all_tensors(graph: onnx.GraphProto) -> list[TensorProto]:
    """Every tensor of a graph and of the graphs inside it."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t, *attribute.tensors] if attribute.type in (4, 9) else []
            for inner in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else []:
                found += all_tensors(inner)
    return found
