"""A loop reads from the end what is turned round for it, and hands out from the end what is turned round again."""

from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lrp_compiler.export.onnx_loops import read_backwards

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
ENDS = {"last": [-1], "before": [np.iinfo(np.int64).min], "along": [0], "back": [-1], "on": [1], "first": [0]}
TURN = ["last", "before", "along", "back"]


def summed(nodes: list[Any], reads: str, returns: list[str], axes: dict[str, list[int]] | None = None) -> ModelProto:
    """`sums` of all rows so far, of `reads`; `nodes` stand around it."""

    def value(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    steps = [helper.make_node("Add", ["h", "row"], ["next"]), helper.make_node("Identity", ["next"], ["sum"])]
    body = helper.make_graph(steps, "step", [value("h", 3), value("row", 3)], [value("next", 3), value("sum", 3)])
    loop = helper.make_node("Scan", ["zeros", reads], ["end", "sums"], body=body, num_scan_inputs=1, **(axes or {}))
    order = [
        *(node for node in nodes if reads in node.output),
        loop,
        *(node for node in nodes if reads not in node.output),
    ]
    held = [numpy_helper.from_array(np.array(numbers, np.int64), name) for name, numbers in ENDS.items()]
    held.append(numpy_helper.from_array(np.zeros(3, np.float32), "zeros"))
    graph = helper.make_graph(
        order, "loop", [value("x", "time", 3)], [value(name, None, 3) for name in returns], initializer=held
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(one) for one in session.run(None, {"x": X})]


def rewritten(model: ModelProto) -> tuple[ModelProto, list[str], list[int], list[int]]:
    """The model behind the pass, its operations, and the directions of its loop."""
    read = onnx_ir.serde.deserialize_model(model)
    read_backwards(read)
    (loop,) = (node for node in read.graph if node.op_type == "Scan")
    directions = [list(loop.attributes.get_ints(f"scan_{kind}_directions", [])) for kind in ("input", "output")]
    return onnx_ir.serde.serialize_model(read), [node.op_type for node in read.graph], *directions


def turned(source: str, result: str, *how: str) -> Any:
    return helper.make_node("Slice", [source, *(how or TURN)], [result])


@pytest.mark.parametrize(
    ("nodes", "reads", "returns", "operations", "directions"),
    [
        ([turned("x", "r")], "r", ["sums"], ["Scan"], ([1], [0])),
        (
            [turned("x", "r"), turned("sums", "t"), helper.make_node("Neg", ["t"], ["y"])],
            "r",
            ["y", "end"],
            ["Scan", "Neg"],
            ([1], [1]),
        ),
        (
            [turned("sums", "t"), helper.make_node("Add", ["t", "x"], ["y"]), helper.make_node("Neg", ["sums"], ["z"])],
            "x",
            ["y", "z"],
            ["Scan", "Slice", "Add", "Neg"],
            ([0], [0]),
        ),
        ([turned("x", "r"), turned("sums", "y")], "r", ["y"], ["Scan", "Slice"], ([1], [0])),
        (
            [turned("x", "r"), helper.make_node("Add", ["sums", "r"], ["y"])],
            "r",
            ["y"],
            ["Slice", "Scan", "Add"],
            ([1], [0]),
        ),
        ([turned("x", "r", "first", "last", "along", "on")], "r", ["sums"], ["Slice", "Scan"], ([0], [0])),
    ],
    ids=["read", "both", "read both ways", "returned", "read elsewhere", "not all"],
)
def test_the_file_says_the_same(
    nodes: list[Any], reads: str, returns: list[str], operations: list[str], directions: tuple[list[int], list[int]]
) -> None:
    model = summed(nodes, reads, returns)
    expected = run(model)

    found, left, *way = rewritten(model)

    assert left == operations
    assert tuple(way) == directions
    for one, other in zip(run(found), expected, strict=True):
        assert np.array_equal(one, other)


def test_a_loop_that_goes_along_another_dim_is_let_be() -> None:
    model = summed([turned("x", "r")], "r", ["sums"], {"scan_input_axes": [0], "scan_output_axes": [1]})

    assert rewritten(model)[1:] == (["Slice", "Scan"], [], [])


def test_a_loop_that_goes_backwards_already_goes_forwards_again() -> None:
    model = summed([turned("x", "r")], "r", ["sums"], {"scan_input_directions": [1]})

    found, left, read, _ = rewritten(model)

    assert (left, read) == (["Scan"], [0])
    assert np.array_equal(run(found)[0], run(model)[0])
