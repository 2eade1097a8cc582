"""Where an ONNX file casts: never between a transposition and a product of matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir
from onnx_ir.convenience import replace_nodes_and_values

DOUBLE, FLOAT, HALF = onnx_ir.DataType.DOUBLE, onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16
MOVABLE = 3
"""Dims from which on a transposition can move the first one and leave two to multiply."""


def cast_before_transposing(model: onnx_ir.Model) -> None:
    """Cast what a product of matrices reads transposed before it is transposed.

        MatMul(Cast(Transpose(x)), y)         →    MatMul(Transpose(Cast(x)), y)
        MatMul(Transpose(x), y) in float16    →    Cast(MatMul(Transpose(Cast(x)), Cast(y)))

    onnxruntime (1.32) ends the whole process when it loads a file in which a cast stands between the two and the first
    dim moves: it takes both into the product, and reads a node that is gone. In float16 the casts are its own, because
    it multiplies in float32: the second form is what it calculates anyway.
    """
    graph: Any = model.graph
    for product in [node for node in graph if node.op_type == "MatMul"]:
        half = any(value.dtype == HALF for value in (*product.inputs, *product.outputs))  # not all of them are known
        sources = [_before_casts(value) for value in product.inputs]
        if any(_moves_first_dim(source) and (casts or half) for source, casts in sources):
            _write(graph, product, sources, half)


def keep_digits(model: onnx_ir.Model) -> None:
    """Take numbers that are cast to float64 by way of float32 from where they still have all their digits.

        Cast(Cast(0.2, float32), float64)    →    Cast(0.2, float64)

    The exporter writes numbers down that way (`torch_private.numbers_in_double`). What is cast to float32 besides, as a
    model does by itself, stays.
    """
    nodes: list[Any] = [*model.graph.all_nodes()]
    for node in nodes:
        if node.op_type not in READS:
            continue
        place, wanted = READS[node.op_type](node)
        narrowed = node.inputs[place].producer() if wanted == DOUBLE and len(node.inputs) > place else None
        if narrowed is None or narrowed.op_type != "Cast" or narrowed.attributes.get_int("to") != FLOAT:
            continue
        number = narrowed.inputs[0].producer()
        held = number.attributes.get("value") if number is not None and number.op_type == "Constant" else None
        if held is not None and held.value.dtype == DOUBLE:
            node.replace_input_with(place, narrowed.inputs[0])
            if not narrowed.outputs[0].uses():
                narrowed.graph.remove(narrowed, safe=True)


READS: Mapping[str, Callable[[Any], tuple[int, onnx_ir.DataType | None]]] = {
    "Cast": lambda node: (0, onnx_ir.DataType(node.attributes.get_int("to"))),
    "CastLike": lambda node: (0, node.inputs[1].dtype),
    "Pow": lambda node: (1, node.inputs[0].dtype),
}
"""Operator → (which of its operands may be a number of another dtype, the dtype in which it reads that)."""


def _before_casts(value: Any) -> tuple[Any, list[onnx_ir.DataType]]:
    """The node whose result it is but for casts, and what they cast to, in order."""
    casts: list[onnx_ir.DataType] = []
    while (made := value.producer()) is not None and made.op_type == "Cast":
        casts.insert(0, onnx_ir.DataType(made.attributes.get_int("to")))
        value = made.inputs[0]
    return made, casts


def _moves_first_dim(node: Any) -> bool:
    if node is None or node.op_type != "Transpose":
        return False
    order = node.attributes.get_ints("perm", ())
    return len(order) >= MOVABLE and order[0] != 0


def _write(graph: Any, product: Any, sources: list[tuple[Any, list[onnx_ir.DataType]]], half: bool) -> None:
    nodes: list[Any] = []

    def add(op: str, inputs: list[Any], shape: Any, dtype: Any, **attributes: Any) -> Any:
        node = onnx_ir.node(op, inputs, attributes)
        node.outputs[0].shape, node.outputs[0].type = shape, None if dtype is None else onnx_ir.TensorType(dtype)
        node.metadata_props.update(product.metadata_props)
        nodes.append(node)
        return node.outputs[0]

    factors = []
    for value, (source, casts) in zip(product.inputs, sources, strict=True):
        moves = _moves_first_dim(source)
        factor = source.inputs[0] if moves else value
        for dtype in [*casts * moves, *[FLOAT] * half]:
            factor = add("Cast", [factor], factor.shape, dtype, to=dtype)
        if moves:
            order = list(source.attributes.get_ints("perm"))
            factor = add("Transpose", [factor], value.shape, factor.dtype, perm=order)
        factors.append(factor)
    shape, dtype = product.outputs[0].shape, product.outputs[0].dtype
    result = add("MatMul", factors, shape, FLOAT if half else dtype)
    if half:
        result = add("Cast", [result], shape, HALF, to=HALF)
    replace_nodes_and_values(graph, product, [product], nodes, product.outputs, [result])
    for source, _ in sources:
        _remove_unread(graph, source)


def _remove_unread(graph: Any, node: Any) -> None:
    """Remove a node that nobody reads any more, and what was made for it alone."""
    if node is None:
        return
    for user, _ in [*node.outputs[0].uses()]:
        if user.op_type == "Cast" and not user.outputs[0].uses() and not user.outputs[0].is_graph_output():
            graph.remove(user, safe=True)
    if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
        graph.remove(node, safe=True)
