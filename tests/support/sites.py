"""Explainers of a site."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.hand_made import entry, metadata_of, model_bytes
from support.sealed import save_sealed


def picture_explainer(**changes: Any) -> bytes:
    """y = the sums of three colour channels, relevance.x = 2x."""
    x, y = entry("x", ["batch", 3, 4, 4]), entry("y", ["batch", 3])
    relevance = entry("relevance.x", x["shape"]) | {"input": "x"}
    nodes = [
        helper.make_node("Constant", [], ["sides"], value_ints=[2, 3]),
        helper.make_node("ReduceSum", ["x", "sides"], ["y"], keepdims=0),
        helper.make_node("Mul", ["x", "two"], ["relevance.x"]),
    ]
    return model_bytes(nodes, [x], [y, relevance], metadata_of([x], [y], [relevance]) | changes)


def text_explainer() -> bytes:
    """Three scores that are all the number of the last token; relevance.input_ids = 1 for each token."""
    ids, mask = (entry(name, ["batch", "sequence"], "int64") for name in ("input_ids", "attention_mask"))
    y, relevance = (
        entry("y", ["batch", 3]),
        entry("relevance.input_ids", ["batch", "sequence"]) | {"input": "input_ids"},
    )
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["relevance.input_ids"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["ends"], value_ints=[-1, -1, -1]),
        helper.make_node("Gather", ["input_ids", "ends"], ["last"], axis=1),
        helper.make_node("Cast", ["last"], ["y"], to=TensorProto.FLOAT),
    ]
    return model_bytes(nodes, [ids, mask], [y, relevance], metadata_of([ids, mask], [y], [relevance]))


def with_external_data(path: Path, content: bytes) -> None:
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:  # as raw bytes, which alone can be external
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(2.0, np.float32), tensor.name))
    onnx.save(model, path, save_as_external_data=True, location="picture.data", size_threshold=0)
    save_sealed(onnx.load(path, load_external_data=False), path)
