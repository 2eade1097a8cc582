"""Requests and answers of the Open Inference Protocol v2, with its binary tensor extension: bytes ↔ arrays.

A body is JSON; where the header `Inference-Header-Content-Length` says how long that is, the elements of tensors that
have `binary_data_size` follow it, in order. Needs orjson: it refuses what is no JSON, and is faster than json by far.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import shortened

from .tensors import datatype, dtype_of, from_bytes, from_json, shape_of, to_bytes, to_json

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes in front of binary data are JSON."""
BINARY_SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
"""Parameters of an input or output, of a wanted output, and of a whole request."""
CHANGE_THE_ANSWER = ("shared_memory_region", "classification", "sequence_id")
"""Parameters of other extensions, which must not be passed over."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Args:
        inputs: name → array.
        outputs: name of a wanted output → whether as binary data; None: all.
        binary: whether outputs are binary data unless it is said of one.
        id: handed back.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, bool] | None
    binary: bool
    id: str | None


class TooLong(InputError):
    """The JSON of a request has more bytes than are read."""


def read_request(body: bytes | bytearray, json_length: str | None, most: int) -> Request:
    """Read a request.

    Args:
        body: all of it.
        json_length: what the header of this name says; None: all is JSON.
        most: bytes of JSON that are read.

    Raises:
        TooLong: there are more.
        InputError: it is not as the protocol says.
    """
    view = memoryview(body)
    length = len(view) if json_length is None else _length(json_length, len(view))
    if length > most:
        raise TooLong(
            f"The request's JSON has {length} bytes, and at most {most} are read, since others wait meanwhile: send "
            f"tensors as binary data (the protocol's {BINARY_SIZE}), which may be larger."
        )
    said = _parsed(view[:length])
    parameters = _parameters("The request", said)
    rest, inputs = view[length:], {}
    for entry in _entries("inputs", said.get("inputs")):
        name = entry["name"]
        if name in inputs:
            raise InputError(f"Input {name!r} is given twice.")
        size = _parameters(f"Input {name!r}", entry).get(BINARY_SIZE)
        dtype, shape = dtype_of(name, entry.get("datatype")), shape_of(name, entry.get("shape"))
        if size is None:
            inputs[name] = from_json(name, dtype, shape, entry.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            there = counted(len(rest), "byte is|bytes are")
            raise InputError(f"Input {name!r} has {BINARY_SIZE} {shortened(size)}, but {there} there.")
        inputs[name] = from_bytes(name, dtype, shape, rest[:size])
        rest = rest[size:]
    if len(rest):
        left = counted(len(rest), "byte")
        raise InputError(f"{left} behind the JSON belonging to no input: {BINARY_SIZE} says how many are whose.")
    binary = parameters.get(ALL_BINARY) is True
    id = said.get("id")
    if not isinstance(id, str | None):
        raise InputError("The request's id is no text.")
    return Request(inputs, _outputs(said.get("outputs"), binary), binary, id)


def write_answer(
    request: Request, model: str, version: str, results: Mapping[str, np.ndarray]
) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of an answer.

    Raises:
        InputError: an output that is wanted as JSON is not finite.
    """
    outputs, pieces = [], []
    for name, array in results.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype(array.dtype.name), "shape": list(array.shape)}
        if request.binary if request.outputs is None else request.outputs[name]:
            pieces.append(to_bytes(array))
            entry["parameters"] = {BINARY_SIZE: len(pieces[-1])}
        else:
            entry["data"] = to_json(name, array)
        outputs.append(entry)
    said = {"model_name": model, "model_version": version, **({} if request.id is None else {"id": request.id})}
    text = orjson.dumps({**said, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not pieces:
        return text, {"Content-Type": "application/json"}
    return b"".join([text, *pieces]), {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(text))}


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < len(str(most)) + 2 and int(text) <= most):
        raise InputError(f"The header {JSON_LENGTH} is {shortened(text)}, but the body has {most} bytes.")
    return int(text)


def _parsed(text: memoryview) -> dict[str, Any]:
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"The request is no JSON ({reason_of(error)}).") from error
    if not isinstance(said, dict):
        raise InputError("The request is no JSON object with inputs.")
    return said


def _entries(what: str, given: Any) -> Sequence[dict[str, Any]]:
    """A list of objects with a name each."""
    fits = isinstance(given, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in given
    )
    if not fits:
        raise InputError(f"The request's {what} are no list of objects with a name each.")
    return list(given)


def _parameters(what: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    given = entry.get("parameters") or {}
    if not isinstance(given, dict):
        raise InputError(f"{what} has parameters that are no object.")
    refused = [name for name in CHANGE_THE_ANSWER if given.get(name)]
    if refused:
        raise InputError(f"{what} has the parameter {refused[0]}, an extension that this server does not have.")
    return given


def _outputs(given: Any, binary: bool) -> dict[str, bool] | None:
    entries: Collection[dict[str, Any]] = [] if given is None else _entries("outputs", given)
    wanted = {}
    for entry in entries:
        chosen = _parameters(f"Output {entry['name']!r}", entry).get(BINARY, binary)
        wanted[entry["name"]] = chosen is True
    return wanted or None
