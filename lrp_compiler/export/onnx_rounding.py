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
    graph: Any = model.graph
    for node in graph:
        if node.op_type != "Mul" or not _is_rounded(node):
            continue
        product, factor = node.inputs
        made = product.producer()
        if made is not None and made.op_type == "Conv" and factor.const_value is not None:
            node.replace_input_with(0, factor)
            node.replace_input_with(1, product)


def _is_rounded(node: Any) -> bool:
    users = [user for user, _ in node.outputs[0].uses()]
    return any(user.op_type == "Round" or (user.op_type in BETWEEN and _is_rounded(user)) for user in users)
