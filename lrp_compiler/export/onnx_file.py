"""An ONNX model as bytes on the disk: weights in the file or in files beside it, none of them copied on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from lrp_compiler.base.seal import file_digest, varint

DIGITS = 12
"""Of the hash in the name of a file that holds weights."""
INLINE = 256
"""Bytes of a tensor that stays in the model's file."""


def put_beside(model: onnx_ir.Model, path: Path, most: int) -> dict[str, str]:
    """Put the weights into files beside the model's own: in their order, a new file where one would become too large.

    Each is named after its content, so that no moment leaves an explainer next to another's weights.

    Args:
        model: its weights are those of the files afterwards.
        path: where the model will be written.
        most: bytes of a file; a tensor that has more is alone in one.

    Returns:
        Name → SHA-256 of each file.
    """
    groups: list[list[Any]] = [[]]
    size = 0
    for value in model.graph.initializers.values():
        if value.const_value is None or value.const_value.nbytes <= INLINE:
            continue
        if groups[-1] and size + value.const_value.nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(value)
        size += value.const_value.nbytes
    written = {}
    for group in filter(None, groups):
        name = f"{path.name}.{_digest(group)[:DIGITS]}.data"
        tensors = [value.const_value for value in group]
        beside = onnx_ir.external_data.convert_tensors_to_external(tensors, path.parent, name, alignment=4096)
        for value, tensor in zip(group, beside, strict=True):
            value.const_value = tensor
        written[name] = file_digest(path.with_name(name))
    return written


def _digest(values: Sequence[Any]) -> str:
    """SHA-256 of weights, in this order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(_bytes(value.const_value))
    return digest.hexdigest()


STREAMED = 1 << 20
"""Bytes of a tensor from which on it goes from where it lies into the file, past protobuf."""
GRAPH, INITIALIZER, RAW_DATA = b"\x3a", b"\x2a", b"\x4a"
"""What stands in front of these fields: of a model, of its graph, of a tensor."""


def write_model(model: onnx_ir.Model, path: Path) -> None:
    """Write the model, with the weights that are not in files beside it.

    Protobuf would hold them twice more, as a message and as its bytes. So the message is made without them, and they
    are written behind the graph's other fields, in their order:

        model's fields │ graph: its fields │ tensor's fields, weights │ tensor's fields, weights │ …
    """
    values = {
        name: value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and not isinstance(value.const_value, onnx_ir.ExternalTensor)
        and value.const_value.nbytes >= STREAMED
    }
    tensors = {name: value.const_value for name, value in values.items()}
    for name, value in values.items():
        of: Any = value.const_value
        value.const_value = onnx_ir.ExternalTensor("", 0, of.nbytes, of.dtype, shape=of.shape, name=name)
    try:
        message = onnx_ir.to_proto(model)
    finally:
        for name, value in values.items():
            value.const_value = tensors[name]
    parts: list[tuple[bytes, Any]] = []
    for stored in message.graph.initializer:
        tensor = tensors.get(stored.name)
        if tensor is not None:
            stored.ClearField("external_data")
            stored.ClearField("data_location")
        fields, size = stored.SerializeToString(), 0 if tensor is None else tensor.nbytes
        fields += RAW_DATA + varint(size) if size else b""
        parts.append((INITIALIZER + varint(len(fields) + size) + fields, tensor))
    del message.graph.initializer[:]
    graph = message.graph.SerializeToString(deterministic=True)
    message.ClearField("graph")
    size = len(graph) + sum(len(fields) + (0 if tensor is None else tensor.nbytes) for fields, tensor in parts)
    with open(path, "wb") as file:
        file.write(message.SerializeToString(deterministic=True))
        file.write(GRAPH + varint(size) + graph)
        for fields, tensor in parts:
            file.write(fields)
            if tensor is not None:
                file.write(_bytes(tensor))


def _bytes(tensor: Any) -> memoryview:
    """Of a tensor, where they lie; of numbers of which several are in a byte there, a copy, in which they are."""
    array = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8).data if array.nbytes == tensor.nbytes else memoryview(tensor.tobytes())
