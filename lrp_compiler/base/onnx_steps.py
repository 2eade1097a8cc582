"""What an ONNX file does, read off its bytes before anything of it is run. Torch-free, and without `onnx`.

A file that was written by the project takes as many steps as it has nodes, and of a recurrence as many as its sequence
is long (`Scan`). One with a `Loop` may take 2⁴⁰ of them, or never end, and onnxruntime has no limit for it; scans in
scans multiply.
"""

import mmap
import os
from collections.abc import Iterator

from .errors import FormatError

REPEATING = ("Loop", "SequenceMap")
"""Operations that run a graph of theirs again and again, as often as they like; no explainer has any."""
SCAN, DEEP = "Scan", 2
"""Runs a graph of its once for each element along a dim; and how deep it may lie in graphs of graphs."""
_GRAPH, _FUNCTION, _FUNCTION_NODE = 7, 25, 7  # of ModelProto; of FunctionProto
_NODE, _OP_TYPE, _ATTRIBUTE, _INNER = 1, 4, 5, (6, 11)  # of GraphProto, NodeProto, AttributeProto
_VARINT, _BYTES, _WIDTH = 0, 2, {1: 8, 5: 4}  # wire types


def refuse_repetition(source: str | os.PathLike[str] | bytes, label: str) -> None:
    """Raise `FormatError` if a file, or its content, repeats a part of itself. What is no ONNX file passes."""
    found = _found(source)
    if found:
        raise FormatError(
            f"{label} is not opened: it repeats a part of itself ({found}), which no explainer does, and which may "
            "never end."
        )


def _found(source: str | os.PathLike[str] | bytes) -> str:
    if isinstance(source, bytes):
        return _repeating(memoryview(source))
    if not os.path.getsize(source):
        return ""
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)
        try:
            return _repeating(view)
        finally:
            view.release()


def _repeating(model: memoryview) -> str:
    try:
        for op, depth in _ops_of_model(model):
            if op in REPEATING or (op == SCAN and depth > DEEP):
                return op
        return ""
    except RecursionError:
        return "a graph in a graph, a thousand deep"


def _ops_of_model(model: memoryview) -> Iterator[tuple[str, int]]:
    for number, part in _fields(model):
        if number == _GRAPH:
            yield from _ops(part, _NODE)
        elif number == _FUNCTION:
            yield from _ops(part, _FUNCTION_NODE)


def _ops(graph: memoryview, node: int, depth: int = 0) -> Iterator[tuple[str, int]]:
    """Every operation, and in how many other graphs it lies."""
    for number, part in _fields(graph):
        if number != node:
            continue
        for field, value in _fields(part):
            if field == _OP_TYPE:
                yield bytes(value).decode("utf-8", "replace"), depth
            elif field == _ATTRIBUTE:
                for inner, subgraph in _fields(value):
                    if inner in _INNER:
                        yield from _ops(subgraph, _NODE, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of every field of bytes in a protobuf message; it ends where the message is none."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in _WIDTH:
            at += _WIDTH[kind]
        elif kind == _BYTES:
            size, at = _varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        else:
            return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while at < len(message):
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return number, at
