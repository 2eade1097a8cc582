"""Where an ONNX file rounds: what is rounded is worked out as it is written."""

from __future__ import annotations

from typing import Any

import onnx_ir

BETWEEN = {"Relu", "Clip", "Max", "Min"}
"""What may stand between a product and its rounding."""


def keep_products_apart(model: onnx_ir.Model) -> None:
    """Keep onnxruntime from multiplying weights by what their sums are multiplied by before these are rounded.

        Round(Mul(Conv(x, w), s))    →    Round(Mul(s, Conv(x, w)))

    A convolution of whole numbers has exact sums, and one product with the size of a step. Fused (ConvMulFusion) it has
    inexact ones, and what lies between two steps is rounded the other way. The fusion looks for a constant that comes
    second (onnxruntime 1.32).
    """
    rounded: set[Any] = set()
    for node in reversed(model.graph):
        users = [user for output in node.outputs for user, _ in output.uses()]
        if not any(user.op_type == "Round" or (user.op_type in BETWEEN and user in rounded) for user in users):
            continue
        rounded.add(node)
        if node.op_type == "Mul":
            _put_constant_first(node)


def _put_constant_first(node: Any) -> None:
    product, factor = node.inputs
    made = product.producer()
    if made is not None and made.op_type == "Conv" and factor.const_value is not None:
        node.replace_input_with(0, factor)
        node.replace_input_with(1, product)
