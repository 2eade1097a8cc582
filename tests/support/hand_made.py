"""Small explainers in ONNX, written by hand to the artefact's contract."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lrp_compiler.base.seal import seal

Shape = list[int | str]
X: Shape = ["batch", 3]
_KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def entry(name: str, shape: Shape, dtype: str = "float32") -> dict:
    return {"name": name, "shape": shape, "dtype": dtype}


def model_bytes(nodes: list, inputs: list[dict], results: list[dict], metadata: dict | str | None) -> bytes:
    def info(tensor: dict) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(tensor["name"], _KINDS[tensor["dtype"]], tensor["shape"])

    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    graph = helper.make_graph(nodes, "explainer", list(map(info, inputs)), list(map(info, results)), [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        helper.set_model_props(model, {"lrp_compiler": text})
    onnx.checker.check_model(model)
    return sealed(model.SerializeToString())


def sealed(content: bytes) -> bytes:
    """The same with a seal at its end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        path.write_bytes(content)
        seal(path)
        return path.read_bytes()


def metadata_of(inputs: list[dict], outputs: list[dict], relevance: list[dict]) -> dict:
    return {
        "schema": 1,
        "composite": {"name": "epsilon"},
        "target": "argmax",
        "seed": "value",
        "classes": 3,
        "inputs": inputs,
        "outputs": outputs,
        "relevance": relevance,
        "versions": {"lrp_compiler": "0.1.0"},
    }


def doubler(shape: Shape = X, **changes: object) -> bytes:
    """y = 2x, relevance.x = x·y."""
    x, y = entry("x", shape), entry("y", shape)
    relevance = entry("relevance.x", shape) | {"input": "x"}
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["y"]),
        helper.make_node("Mul", ["x", "y"], ["relevance.x"]),
    ]
    return model_bytes(nodes, [x], [y, relevance], metadata_of([x], [y], [relevance]) | changes)


def chooser() -> bytes:
    """y = 2x, relevance.x = y where the class is the target's, else 0."""
    x, y = entry("x", X), entry("y", X)
    relevance = entry("relevance.x", X) | {"input": "x"}
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["y"]),
        helper.make_node("Constant", [], ["depth"], value_int=3),
        helper.make_node("Constant", [], ["off_on"], value_floats=[0.0, 1.0]),
        helper.make_node("OneHot", ["target", "depth", "off_on"], ["seed"]),
        helper.make_node("Mul", ["y", "seed"], ["relevance.x"]),
    ]
    inputs = [x, entry("target", ["batch"], "int64")]
    return model_bytes(nodes, inputs, [y, relevance], metadata_of([x], [y], [relevance]) | {"target": "index"})


def seeded() -> bytes:
    """y = 2x, relevance.x = x·seed."""
    x, y, seed = entry("x", X), entry("y", X), entry("seed", X)
    relevance = entry("relevance.x", X) | {"input": "x"}
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["y"]),
        helper.make_node("Mul", ["x", "seed"], ["relevance.x"]),
    ]
    return model_bytes(nodes, [x, seed], [y, relevance], metadata_of([x], [y], [relevance]) | {"seed": "tensor"})


def lookup() -> bytes:
    """A table of two rows looked up by `ids` and scaled by `mask`: two inputs, two outputs."""
    shape: Shape = ["batch", "sequence"]
    ids, mask = entry("ids", shape, "int64"), entry("mask", shape)
    score, total = entry("score", shape), entry("total", ["batch"])
    relevance = entry("relevance.ids", shape) | {"input": "ids"}
    nodes = [
        helper.make_node("Constant", [], ["table"], value_floats=[1.0, 10.0]),
        helper.make_node("Constant", [], ["last"], value_ints=[1]),
        helper.make_node("Gather", ["table", "ids"], ["looked_up"]),
        helper.make_node("Mul", ["looked_up", "mask"], ["score"]),
        helper.make_node("ReduceSum", ["score", "last"], ["total"], keepdims=0),
        helper.make_node("Identity", ["score"], ["relevance.ids"]),
    ]
    outputs = [score, total]
    metadata = metadata_of([ids, mask], outputs, [relevance]) | {"classes": None}
    return model_bytes(nodes, [ids, mask], [*outputs, relevance], metadata)


def x_of(rows: int) -> np.ndarray:
    return np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) - 4
