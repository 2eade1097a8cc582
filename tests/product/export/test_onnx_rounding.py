"""What is rounded is worked out as it is written, however it reaches the rounding."""

import numpy as np
import onnx_ir
import pytest
from onnx import ModelProto, helper
from support.onnx_graphs import model

from lrp_compiler.export.onnx_rounding import keep_products_apart


def constant_comes_first(graph: ModelProto) -> bool:
    read = onnx_ir.serde.deserialize_model(graph)
    keep_products_apart(read)
    (product,) = [node for node in read.graph if node.op_type == "Mul"]
    return product.inputs[0].name == "step"


def rounded(levels: int, last: str = "Round") -> ModelProto:
    """A convolution times a step, and as many diamonds of bounds in front of the last node."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["sums"]), helper.make_node("Mul", ["sums", "step"], ["v0"])]
    for level in range(levels):
        nodes += [
            helper.make_node("Relu", [f"v{level}"], [f"left{level}"]),
            helper.make_node("Clip", [f"v{level}"], [f"right{level}"]),
            helper.make_node("Max", [f"left{level}", f"right{level}"], [f"v{level + 1}"]),
        ]
    nodes.append(helper.make_node(last, [f"v{levels}"], ["y"]))
    held = {"w": np.ones((2, 3, 1, 1), np.float32), "step": np.array(0.5, np.float32)}
    return model(nodes, {"x": [1, 3, 4, 4]}, constants=held)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_a_product_that_is_rounded_has_its_constant_first(levels: int) -> None:
    assert constant_comes_first(rounded(levels))
    assert not constant_comes_first(rounded(levels, last="Neg"))


def test_paths_that_part_and_meet_are_walked_once() -> None:
    """Path by path it would take 2⁴⁰ steps, and one call within another for each of 1,500 nodes."""
    assert constant_comes_first(rounded(500))
