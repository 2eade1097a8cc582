"""Functions that a model brings along: each call of one is replaced by the nodes of its body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import inliner

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import FormatError

Key = tuple[str, str]
"""Domain and name of a function."""


def inlined(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The model with its functions inlined; itself, if it has none.

    Args:
        model: it is not modified.
        label: what it is called in messages.

    Raises:
        FormatError: they cannot be inlined, or are of another opset than the model.
    """
    if not model.functions:
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    functions = {(one.domain, one.name): one for one in whole.functions}
    # onnx's inliner leaves them out.
    for node in _nodes(whole):
        function = functions.get((node.domain, node.op_type))
        given = {attribute.name for attribute in node.attribute}
        node.attribute.extend(one for one in (function.attribute_proto if function else ()) if one.name not in given)
    for function in whole.functions:
        _take_opsets(function, {entry.domain: entry.version for entry in whole.opset_import})
    try:
        found = inliner.inline_local_functions(whole)
    except Exception as error:
        raise FormatError(f"The functions of {label} cannot be inlined ({reason_of(error)}).") from error
    left = next((node for node in _nodes(found) if (node.domain, node.op_type) in functions), None)
    if left is None:
        return found
    # onnx would convert it, and not always to the same.
    raise FormatError(
        f"Function {left.op_type!r} of {label} is written for another opset than the model: write both for the same."
    )


def _take_opsets(function: onnx.FunctionProto, opsets: Mapping[str, int]) -> None:
    """Let a function be of the model's opsets, where its operators mean the same in both."""
    for entry in function.opset_import:
        wanted = opsets.get(entry.domain, entry.version)
        own = {node.op_type for node in _within(function.node) if node.domain == entry.domain}
        if all(_revision(op, wanted, entry.domain) == _revision(op, entry.version, entry.domain) for op in own):
            entry.version = wanted


def _revision(op: str, opset: int, domain: str) -> int:
    """The opset since which an operator has meant what it means in this one; 0 of one that onnx does not know."""
    known = onnx.defs.has(op, opset, domain)
    return int(onnx.defs.get_schema(op, opset, domain).since_version) if known else 0


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes: of the graph, of functions, and of graphs inside nodes."""
    yield from _within(model.graph.node)
    for function in model.functions:
        yield from _within(function.node)


def _within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _within(graph.node)
