"""Which module of the original model a node belongs to, as far as the file says so.

/layer1/layer1.0/conv1/Conv      → layer1, layer1.0, layer1.0.conv1          (torch.onnx, TorchScript)
['', 'conv', 'conv.0', 'conv2d'] → conv, conv.0                              (torch.onnx, dynamo, in the metadata)
model/dense/MatMul               → model, model.dense                        (tf2onnx and others)
Conv_12, or no name at all       → Conv_12
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

import onnx

SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
REWRITTEN = "pkg.onnxscript.rewriter.rule_name"
"""Of a node that stands for several: the module that it names is one of them."""
WEIGHT = re.compile(r"(.+)\.weight(_.*)?", re.DOTALL)
"""What a weight's name says of its module, also where a tool has written it anew (`….weight_quantized`)."""
QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
"""Operators that only hand on what was made elsewhere."""


class Level(NamedTuple):
    """A module around a node."""

    path: str
    """Dotted, from the model itself."""
    kind: str = ""
    """Name of its class; "" where it is not known."""


def levels(node: onnx.NodeProto, number: int, weights: set[str]) -> tuple[Level, ...]:
    """The modules around a node, the outermost first; none of what the model itself does.

    Args:
        node: the node.
        number: its place in the file, for a name where it has none.
        weights: names of the initialisers.
    """
    said = {entry.key: entry.value for entry in node.metadata_props}
    found = _in_metadata(said) if SCOPES in said else _in_name(node, number)
    owner = _owner(node, weights)
    if owner and (REWRITTEN in said or not speaks(node)):
        return tuple(Level(path, kind) for path, kind in _nested(owner.split("."), found))
    return found


def speaks(node: onnx.NodeProto) -> bool:
    """Whether a node's name or metadata speak of modules."""
    return "/" in node.name or any(entry.key == SCOPES for entry in node.metadata_props)


def goes_along(node: onnx.NodeProto, weights: set[str], others: bool) -> bool:
    """Whether a node belongs where its operand was made: what a tool has put into a file that speaks of modules, or a
    quantiser.

    Args:
        node: the node.
        weights: names of the initialisers.
        others: whether any node of the file speaks of modules.
    """
    return (others or node.op_type in QUANTISERS) and not speaks(node) and not _owner(node, weights)


def _owner(node: onnx.NodeProto, weights: set[str]) -> str:
    found = (WEIGHT.fullmatch(name) for name in node.input if name in weights)
    return next((match[1] for match in found if match), "")


def _in_metadata(said: dict[str, str]) -> tuple[Level, ...]:
    paths, kinds = _list(said[SCOPES])[1:-1], _list(said.get(CLASSES, "[]"))[1:-1]
    kinds += [""] * (len(paths) - len(kinds))
    pairs = zip(paths, kinds, strict=False)
    return tuple(Level(_dotted(path), kind.rpartition(".")[2]) for path, kind in pairs if path)


def _list(text: str) -> list[str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [str(part) for part in found] if isinstance(found, list) else []


def _in_name(node: onnx.NodeProto, number: int) -> tuple[Level, ...]:
    if "/" not in node.name:
        name = _plain(node.name) or f"{_plain(node.op_type)}_{number}"
        return (Level(name),)
    found: list[Level] = []
    before = path = ""
    for part in [part for part in node.name.split("/")[:-1] if part]:
        inside = before and part.startswith(f"{before}.")
        path = ".".join(filter(None, (path, part.removeprefix(f"{before}.") if inside else part)))
        before = part
        found.append(Level(_dotted(path)))
    return tuple(found)


def _nested(parts: list[str], found: tuple[Level, ...]) -> list[tuple[str, str]]:
    """All but the innermost as they were found, where they are around it; then itself."""
    path = ".".join(map(_plain, parts))
    around = [(level.path, level.kind) for level in found if path.startswith(f"{level.path}.")]
    return [*around, (path, "")]


def _dotted(path: str) -> str:
    return ".".join(filter(None, (_plain(part) for part in path.split("."))))


def _plain(name: str) -> str:
    """A name that a module may have."""
    return re.sub(r"\W+", "_", name).strip("_")
