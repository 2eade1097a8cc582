"""How an ONNX file holds its weights: in half the bytes, without a transposed copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir.convenience import replace_nodes_and_values

LEAST = 8193
"""Elements below which a tensor stays as it is: it weighs nothing, and what is made of it was folded into constants."""
SMALLEST, LARGEST = 2.0**-14, 65504.0
"""Where its largest element is between these, float16 holds a tensor to 11 bits of that element."""


def halves(size: int, largest: float) -> bool:
    """Whether float16 will do for a tensor of so many elements; a NaN is not between the limits, either."""
    return size >= LEAST and SMALLEST <= largest <= LARGEST


def halve_weights(model: onnx_ir.Model) -> None:
    """Store weights in float16 and cast them back where they are read.

        W: float32[n, m]    →    W: float16[n, m], Cast(W) → float32

    A runtime casts them once, when it loads the file, and calculates in float32 as before: onnxruntime has next to no
    float16 arithmetic on CPUs. Forward and relevance read the same rounded weights: the file explains what it predicts.
    """
    graph: Any = model.graph
    for value in list(graph.initializers.values()):
        if value.const_value is None or value.const_value.dtype != onnx_ir.DataType.FLOAT:
            continue
        array = value.const_value.numpy()
        if not halves(array.size, float(np.abs(array).max(initial=0))):
            continue
        half = _constant(graph, f"{value.name}_float16", array.astype(np.float16))
        cast = onnx_ir.node("Cast", [half], {"to": onnx_ir.DataType.FLOAT})
        value.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = value.name, value.type, value.shape
        del graph.initializers[value.name]
        graph.insert_before(graph[0], cast)


NIBBLES = 16
"""Numbers that four bits have."""


def pack_nibbles(model: onnx_ir.Model) -> None:
    """Store whole numbers of 8 bits that fit into 4 two in a byte, and take them apart where they are read.

        q: int8[n, m]    →    P: uint8[n·m/2], Cast(Reshape(Concat(P mod 16, P div 16)) + least) → int8[n, m]

    torch has no numbers of 4 bits. The arithmetic is of floats, which every runtime has; it is done once, when the file
    is loaded.
    """
    graph: Any = model.graph
    kinds = (onnx_ir.DataType.INT8, onnx_ir.DataType.UINT8)
    for value in list(graph.initializers.values()):
        if value.const_value is None or value.const_value.dtype not in kinds:
            continue
        array = value.const_value.numpy()
        if array.size < LEAST or array.size % 2 or int(array.max()) - int(array.min()) >= NIBBLES:
            continue
        least = int(array.min())
        flat = (array.astype(np.int16) - least).astype(np.uint8).reshape(-1, 2)
        name = value.name
        packed = _constant(graph, f"{name}_packed", flat[:, :1] | flat[:, 1:] << 4)
        numbers: dict[str, np.ndarray] = {
            "sixteen": np.array(NIBBLES, np.float32),
            "least": np.array(least, np.float32),
            "shape": np.array(array.shape, np.int64),
        }
        sixteen, start, shape = (_constant(graph, f"{name}_{key}", number) for key, number in numbers.items())
        both = onnx_ir.node("Cast", [packed], {"to": onnx_ir.DataType.FLOAT})
        over = onnx_ir.node("Div", [both.outputs[0], sixteen])
        high = onnx_ir.node("Floor", [over.outputs[0]])
        times = onnx_ir.node("Mul", [high.outputs[0], sixteen])
        low = onnx_ir.node("Sub", [both.outputs[0], times.outputs[0]])
        pairs = onnx_ir.node("Concat", [low.outputs[0], high.outputs[0]], {"axis": 1})
        shaped = onnx_ir.node("Reshape", [pairs.outputs[0], shape])
        moved = onnx_ir.node("Add", [shaped.outputs[0], start])
        whole = onnx_ir.node("Cast", [moved.outputs[0]], {"to": value.const_value.dtype})
        result = whole.outputs[0]
        value.replace_all_uses_with(result, replace_graph_outputs=True)
        result.name, result.type, result.shape = name, value.type, value.shape
        del graph.initializers[name]
        graph.insert_before(graph[0], [both, over, high, times, low, pairs, shaped, moved, whole])


def multiply_transposed(model: onnx_ir.Model) -> None:
    """Multiply with the transpose of a weight matrix without making it.

        MatMul(x, Transpose(W))    →    Reshape(Gemm(Reshape(x, [-1, k]), W, transB=1), […, n])
        W square, and read as it is, too    →    Transpose(MatMul(W, Transpose(x)))

    A runtime makes the transpose of a constant when it loads the file, and keeps both. The second form is for what
    `keep_orientations_apart` is for, without a copy of W.
    """
    graph: Any = model.graph
    for node in list(graph):
        if node.op_type == "Transpose" and _is_matrix(node.inputs[0]):
            write = _write_turned if _is_read_both_ways(node.inputs[0]) else _write_gemm
            for product, index in list(node.outputs[0].uses()):
                if product.op_type == "MatMul" and index == 1:
                    write(graph, product, node.inputs[0])
            if not node.outputs[0].uses():
                graph.remove(node, safe=True)
        elif _is_plain_gemm(node) and _is_matrix(node.inputs[1]) and _is_read_both_ways(node.inputs[1]):
            _write_turned(graph, node, node.inputs[1])


def _is_plain_gemm(node: Any) -> bool:
    """Whether it is `x Wᵀ + b`."""
    if node.op_type != "Gemm":
        return False
    scales = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return scales and _transposes(node, 1) and not node.attributes.get_int("transA", 0)


def _is_read_both_ways(weight: Any) -> bool:
    return _is_square(weight) and not all(_transposes(node, index) for node, index in weight.uses())


def give_defaults(model: onnx_ir.Model, defaults: Mapping[str, float]) -> None:
    """Let inputs be left out: an initialiser under the input's name holds what they are then.

    It has size 1 where the input's size is open, which is broadcast; masks and seeds are only multiplied and added.
    """
    graph: Any = model.graph
    for value in graph.inputs:
        if value.name in defaults:
            sizes = [dim if isinstance(dim, int) else 1 for dim in value.shape]
            array = np.full(sizes, defaults[value.name], value.dtype.numpy())
            value.const_value = onnx_ir.tensor(array, name=value.name)
            graph.initializers[value.name] = value


def keep_orientations_apart(model: onnx_ir.Model) -> None:
    """Make two constants of a square weight matrix that is read both as it is and transposed.

        Transpose(W), MatMul(·, W)       →    Transpose(Max(W, −∞)), MatMul(·, W)
        Gemm(·, W, transB), MatMul(·, W) →    Gemm(·, Max(W, −∞), transB), MatMul(·, W)

    OpenVINO (2026.4) keeps one of the two where only their order tells them apart, and multiplies with it twice. The
    maximum is W, bit by bit; a runtime works it out once, when it loads the file, and the file holds W once.
    """
    graph: Any = model.graph
    for weight in filter(_is_square, _constants(graph)):
        turned = [(node, index) for node, index in weight.uses() if _transposes(node, index)]
        if not turned or len(turned) == len(weight.uses()):
            continue
        array = np.array(-np.inf, weight.dtype.numpy())
        least = graph.initializers.get(f"lowest_{array.dtype}") or _constant(graph, f"lowest_{array.dtype}", array)
        same = onnx_ir.node("Max", [weight, least], name=f"{weight.name}_apart")
        result = same.outputs[0]
        result.name, result.shape, result.type = f"{weight.name}_apart", weight.shape, weight.type
        same.metadata_props.update(turned[0][0].metadata_props)
        for node, index in turned:
            node.replace_input_with(index, result)
        graph.insert_before(next(node for node in graph if any(node is user for user, _ in turned)), same)


def _transposes(node: Any, index: int) -> bool:
    """Whether this operand of a node is read transposed."""
    if node.op_type == "Transpose":
        return True
    return bool(node.op_type == "Gemm" and index == 1 and node.attributes.get_int("transB", 0))


def _constants(graph: Any) -> list[Any]:
    """The weights, and all that follows from them alone (casts of halves, |W|, W⁺)."""
    known = {value: None for value in graph.initializers.values() if value.const_value is not None}
    for node in graph:
        if node.inputs and all(value is None or value in known for value in node.inputs):
            known.update(dict.fromkeys(node.outputs))
    return list(known)


def _is_square(value: Any) -> bool:
    """Whether it is a tensor of floats whose last two dims are equal."""
    last = list(value.shape or ())[-2:]
    return len(last) == 2 and last[0] == last[1] and value.dtype in FLOATS


FLOATS = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE)


def _is_matrix(value: Any) -> bool:
    """Whether it is a weight of two dims, as it is stored or cast."""
    made = value.producer()
    source = made.inputs[0] if made is not None and made.op_type == "Cast" else value
    return source.const_value is not None and len(source.const_value.shape) == 2


def _write_gemm(graph: Any, product: Any, matrix: Any) -> None:
    x, (out_features, in_features) = product.inputs[0], matrix.shape

    def sizes(*given: int) -> Any:
        name = "sizes_" + "_".join(str(size).replace("-", "minus_") for size in given)
        return graph.initializers.get(name) or _constant(graph, name, np.array(given, np.int64))

    rows = onnx_ir.node("Reshape", [x, sizes(-1, int(in_features))])
    gemm = onnx_ir.node("Gemm", [rows.outputs[0], matrix], {"transB": 1})
    leading = onnx_ir.node("Shape", [x], {"start": 0, "end": -1})
    shape = onnx_ir.node("Concat", [leading.outputs[0], sizes(int(out_features))], {"axis": 0})
    result = onnx_ir.node("Reshape", [gemm.outputs[0], shape.outputs[0]])
    nodes = [rows, gemm, leading, shape, result]
    for node in nodes:
        node.metadata_props.update(product.metadata_props)
    replace_nodes_and_values(graph, product, [product], nodes, product.outputs, result.outputs)


def _write_turned(graph: Any, product: Any, matrix: Any) -> None:
    x, bias = product.inputs[0], product.inputs[2:]
    order = list(range(len(x.shape)))
    order[-2:] = reversed(order[-2:])
    columns = onnx_ir.node("Transpose", [x], {"perm": order})
    turned = onnx_ir.node("MatMul", [matrix, columns.outputs[0]])
    nodes = [columns, turned, onnx_ir.node("Transpose", [turned.outputs[0]], {"perm": order})]
    if bias:
        nodes.append(onnx_ir.node("Add", [nodes[-1].outputs[0], bias[0]]))
    for node in nodes:
        node.metadata_props.update(product.metadata_props)
    replace_nodes_and_values(graph, product, [product], nodes, product.outputs, nodes[-1].outputs)


def _constant(graph: Any, name: str, array: np.ndarray) -> Any:
    tensor: Any = onnx_ir.tensor(array, name=name)
    value = onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
