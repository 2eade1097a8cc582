"""Small ONNX models, written down node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lrp_compiler.base.onnx_session import exact_options
from lrp_compiler.onnx_in import overflows

exact_sums = pytest.mark.skipif(overflows(), reason="onnxruntime's sums of 8-bit products overflow here")
"""On x86 without VNNI, in operators that no option of onnxruntime's keeps from that."""

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str] | None


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 20,
    dtypes: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of these nodes; inputs are float32 unless `dtypes` says otherwise."""
    kinds = dtypes or {}
    given = [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), shape) for name, shape in inputs.items()]
    returned = [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), None) for name in outputs]
    held = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", given, returned, held)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def node(op: str, inputs: str, outputs: str = "y", name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by spaces, `_` is an input that is left out."""
    given = ["" if one == "_" else one for one in inputs.split()]
    return helper.make_node(op, given, outputs.split(), name=name, **attributes)


def in_onnxruntime(proto: onnx.ModelProto, feeds: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """What onnxruntime makes of it."""
    options = exact_options() if overflows() else onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return [torch.as_tensor(array) for array in session.run(None, {n: t.numpy() for n, t in feeds.items()})]
