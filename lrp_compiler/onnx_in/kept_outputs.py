"""Which outputs of a model are read: those that could carry relevance, and beside them what can be worked out.

Pipelines return a label beside the scores, and scores as a map from labels. A map that is made of a tensor last of all
gives way to that tensor; text and maps go, and so do whole numbers that only operators make which cannot be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import onnx
from onnx import TensorProto, TypeProto, helper

from lrp_compiler.base.errors import CaptureError

from .check_graph import reads_of
from .read_file import Source

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
Refused = Callable[[onnx.NodeProto], bool]
"""Whether a node cannot be run."""


def with_kept_outputs(source: Source, refused: Refused) -> tuple[Source, list[str]]:
    """The model without the outputs that nothing can be said of.

    Args:
        source: the model as it was read; it is not modified.
        refused: whether a node cannot be run.

    Returns:
        The model, and the names of the outputs that are left out.

    Raises:
        CaptureError: none is left.
    """
    graph = source.model.graph
    maps = {node.output[0]: node for node in graph.node if node.op_type == "ZipMap" and node.output}
    opened = [value.name for value in graph.output if value.name in maps]
    kept = [value.name for value in graph.output if value.name in opened or not _is_no_number(value.type)]
    whole = [value.name for value in graph.output if value.name in kept and _is_whole(value.type)]
    if whole:
        blocked = _blocked(graph, refused, needed=[name for name in kept if name not in whole])
        kept = [name for name in kept if name not in whole or name not in blocked]
    left_out = [value.name for value in graph.output if value.name not in kept]
    if not kept:
        raise CaptureError(
            f"{source.label} returns {', '.join(map(repr, left_out))}, text, maps or labels alone: there is no tensor "
            "of scores to explain. Let the converter return the scores as well."
        )
    if not left_out and not opened:
        return source, []
    return source._replace(model=_rewritten(source.model, kept, {name: maps[name] for name in opened})), left_out


def _rewritten(model: onnx.ModelProto, kept: Iterable[str], opened: dict[str, onnx.NodeProto]) -> onnx.ModelProto:
    """A copy that returns these outputs, maps being the tensors that they are made of."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = {value.name: value for value in copy.graph.output}
    returned = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) if name in opened else outputs[name]
        for name in kept
    ]
    nodes = [
        helper.make_node("Identity", node.input, node.output, name=node.name)
        if node.output and node.output[0] in opened
        else node
        for node in copy.graph.node
    ]
    for place, fields in ((copy.graph.output, returned), (copy.graph.node, nodes)):
        fresh = [type(one).FromString(one.SerializeToString()) for one in fields]
        del place[:]
        place.extend(fresh)
    return copy


def _is_no_number(kind: TypeProto) -> bool:
    """Whether it is a map, a sequence of maps, or text."""
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
    return kind.HasField("map_type") or kind.tensor_type.elem_type == TensorProto.STRING


def _is_whole(kind: TypeProto) -> bool:
    number = kind.tensor_type.elem_type
    return kind.HasField("tensor_type") and number not in (TensorProto.UNDEFINED, *FLOATS, *COMPLEX)


def _blocked(graph: onnx.GraphProto, refused: Refused, needed: Iterable[str]) -> set[str]:
    """Values that cannot be worked out, of those that no output needs that is kept whatever it costs."""
    makers: dict[str, Any] = {name: node for node in graph.node for name in node.output if name}
    text = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.STRING}
    asked, waiting = set(text), list(needed)
    kept: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in makers and name not in kept:
            kept.add(name)
            waiting += reads_of(makers[name])
    for node in graph.node:  # one that stands in front of what it reads keeps an output, which is refused later
        lost = any(name in asked for name in reads_of(node)) or _holds_text(node) or refused(node)
        if lost:
            asked |= {name for name in node.output if name and name not in kept}
    return asked


def _holds_text(node: onnx.NodeProto) -> bool:
    """Whether what the node returns is text: a constant, or the class of a classifier."""
    return any(one.name in ("value_string", "value_strings") for one in node.attribute) or (
        node.op_type == "Constant"
        and any(one.name == "value" and one.t.data_type == TensorProto.STRING for one in node.attribute)
    )
