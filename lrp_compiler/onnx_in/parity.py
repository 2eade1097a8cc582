"""Does the module say what onnxruntime says? Asked at compile time, on the example inputs.

Where it does not, every node is given what onnxruntime has there, and the first that makes something else of it is
named. Of a quantised model that is the question itself: a number that lies between two steps is rounded the one way or
the other by the last bit, and what follows is calculated from another number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.base.onnx_session import ONNXRUNTIME_ERRORS, exact_options, first_line

from .check_graph import called
from .module import OnnxModule
from .operators.quantised import WATCHED
from .read_file import OWN_DOMAIN
from .tensors import BITS
from .whole_numbers import Scaled, Whole

ROOM = 10.0
"""How many times the root of the dtype's rounding a value may be off, as a share of the largest."""
TIES = 0.02
"""Share of the whole numbers of a quantisation that may be rounded the other way: those that lie between two."""
DIGITS = 64
"""How many times float32's rounding a number may be off half a step, to be rounded either way."""
STORED = (torch.int8, torch.uint8, torch.int16, torch.uint16)
_FAILURES: tuple[type[Exception], ...] = (*ONNXRUNTIME_ERRORS, RuntimeError, ValueError, TypeError)


def check_parity(module: OnnxModule, inputs: Sequence[Tensor]) -> str:
    """Compare the outputs with onnxruntime's.

    Returns:
        Why they could not be compared; "" where they were.

    Raises:
        CaptureError: they differ by more than rounding; the sentence names the first node that does.
    """
    arrays = [array_of(tensor) for tensor in inputs]
    if any(array is None for array in arrays):
        return "onnxruntime takes no such inputs from Python"
    feeds = {name: array for name, array in zip(module.input_names, arrays, strict=True) if array is not None}
    with torch.no_grad():
        returned = module(*(tensor.clone() for tensor in inputs))
    found = returned if isinstance(returned, tuple) else (returned,)
    try:
        expected = _run(module, module.source.original, feeds, module.output_names)
    except _FAILURES as error:
        return f"onnxruntime does not run it ({first_line(error).strip().rstrip('.')})"
    for name, got, want in zip(module.output_names, found, expected, strict=True):
        off = difference(got, want)
        if off > room(got):
            first = _first(module, feeds, inputs)
            if first is None and module.rounds(*inputs):
                break  # a tie that is rounded the other way is another number from there on
            if first is not None and first.op_type in SUMS_OF_8_BITS and overflows():
                return "its sums of 8-bit products overflow on this processor"
            if first is not None and any(one.name == "accuracy_level" and one.i for one in first.attribute):
                return f"{called(first)} rounds activations as this processor does, which others do otherwise"
            raise CaptureError(
                f"Output {name!r} differs from what onnxruntime makes of {module.source.label} by {off:.0e} of the "
                f"largest value{f', first at {called(first)}' if first is not None and first is not UNKNOWN else ''}."
            )
    return ""


@cache
def overflows() -> bool:
    """Whether onnxruntime's sums of 8-bit products overflow on this processor, as they do on x86 without VNNI.

    It adds two products in 16 bits there. `exact_options` keeps it from that, but not in every operator.
    """
    weights = onnx.numpy_helper.from_array(np.full((2, 1), 127, np.int8), "w")
    node = onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 2])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [1, 1])
    graph = onnx.helper.make_graph([node], "overflow", [x], [y], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return int(session.run(None, {"x": np.full((1, 2), 255, np.uint8)})[0][0, 0]) != 2 * 127 * 255


def _stores_8_bits(model: onnx.ModelProto) -> bool:
    return any(one.data_type in STORED_8_BITS for one in model.graph.initializer)


SUMS_OF_8_BITS = frozenset(
    {
        *(
            "MatMulInteger",
            "MatMulIntegerToFloat",
            "ConvInteger",
            "QLinearConv",
            "QLinearMatMul",
            "QGemm",
            "QAttention",
        ),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
    }
)
"""Operators that add 8-bit products."""
UNKNOWN = onnx.NodeProto()
STORED_8_BITS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def array_of(tensor: Tensor) -> np.ndarray | None:
    """As onnxruntime takes it; None of a dtype that numpy does not have."""
    return None if tensor.dtype in BITS else tensor.detach().cpu().numpy()


def _run(
    module: OnnxModule, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[Any]:
    options = exact_options() if _stores_8_bits(model) and overflows() else onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # What is fused and folded rounds in another order, and so it would name another node.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    folder = module.source.folder
    if folder is not None:
        # External data are looked for there, and nowhere else.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(folder))
    session = onnxruntime.InferenceSession(
        with_every_output(model).SerializeToString(), options, ["CPUExecutionProvider"], enable_fallback=0
    )
    return list(session.run(list(names), dict(feeds)))


def with_every_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name for each output that a node leaves out of any number of them.

    onnxruntime takes a file in which a Split leaves one out, and ends the process when it runs it.
    """
    if not any(lacking(node) for node in model.graph.node):
        return model
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for number, node in enumerate(named.graph.node):
        for place in lacking(node):
            node.output[place] = f"lrp_compiler.unread.{number}.{place}"
    return named


def lacking(node: onnx.NodeProto) -> list[int]:
    """Places of the outputs without a name, of an operator that has any number of outputs."""
    if node.domain not in OWN_DOMAIN or not onnx.defs.has(node.op_type):
        return []
    last = onnx.defs.get_schema(node.op_type).outputs[-1:]
    variadic = any(one.option == onnx.defs.OpSchema.FormalParameterOption.Variadic for one in last)
    return [place for place, name in enumerate(node.output) if not name] if variadic else []


def difference(got: Any, want: Any) -> float:
    """The largest difference as a share of the largest value; infinite where shapes differ, or one is no number."""
    if isinstance(want, list) or not isinstance(got, Tensor):
        return 0.0
    expected = torch.as_tensor(np.array(want)) if isinstance(want, np.ndarray | np.generic) else want
    if tuple(got.shape) != tuple(expected.shape):
        return float("inf")
    a, b = got.double(), expected.double()
    known = torch.isfinite(b)
    if not torch.equal(known, torch.isfinite(a)):
        return float("inf")
    if not bool(known.any()):
        return 0.0
    return float((a[known] - b[known]).abs().max() / (float(b[known].abs().max()) or 1.0))


def room(got: Any) -> float:
    """What rounding alone may make of it."""
    if not isinstance(got, Tensor) or not got.is_floating_point():
        return 0.5
    return ROOM * float(torch.finfo(got.dtype).eps) ** 0.5


def _first(module: OnnxModule, feeds: Mapping[str, np.ndarray], inputs: Sequence[Tensor]) -> onnx.NodeProto | None:
    """The first node that makes something else of what onnxruntime gives it; `UNKNOWN` where that cannot be told."""
    try:
        compared = node_by_node(module, feeds, inputs)
        differing = (node for node, got, want, real in compared if not _is_near(got, want, real))
        return next(differing, None)
    except _FAILURES:
        return UNKNOWN


def node_by_node(
    module: OnnxModule, feeds: Mapping[str, np.ndarray], inputs: Sequence[Tensor]
) -> Iterator[tuple[onnx.NodeProto, Tensor, np.ndarray, Tensor | None]]:
    """Of every node its result here, and onnxruntime's, from the same inputs: those that onnxruntime has there.

    With each comes what it rounded last, if it rounds.
    """
    values = module.all_values(*inputs)
    nodes = [node for node in module.source.model.graph.node for name in node.output if name in values]
    makers = {name: node for node in nodes for name in node.output if name in values}
    model = onnx.ModelProto()
    model.CopyFrom(module.source.model)
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in makers if name not in outputs)
    expected = dict(zip(makers, _run(module, model, feeds, list(makers)), strict=True))
    environment: dict[str, Any] = dict(zip(module.input_names, inputs, strict=True))
    for step in module.steps:
        rounded: list[Tensor] = []
        watching = WATCHED.set(rounded)
        try:
            with torch.no_grad():
                step.run(environment)
        finally:
            WATCHED.reset(watching)
        for name in step.outputs:
            value = environment.get(name)
            got, want = value.tensor() if isinstance(value, Whole | Scaled) else value, expected.get(name)
            if isinstance(got, Tensor) and isinstance(want, np.ndarray | np.generic):
                yield makers[name], got, np.asarray(want), rounded[-1] if rounded else None
                environment[name] = torch.as_tensor(np.array(want)).to(got.dtype)


def _is_near(got: Tensor, want: np.ndarray, real: Tensor | None = None) -> bool:
    """Whether they are the same up to rounding: of whole numbers, but for those that lie between two."""
    if got.dtype not in STORED or tuple(got.shape) != want.shape:
        return difference(got, want) <= room(got)
    steps = (got.to(torch.int64) - torch.as_tensor(np.array(want)).to(torch.int64)).abs()
    other = steps == 1
    if real is not None and real.shape == got.shape:
        between = ((real - torch.floor(real)) - 0.5).abs() <= DIGITS * torch.finfo(real.dtype).eps * (1 + real.abs())
        if bool((steps[~other] == 0).all()) and bool(between[other].all()):
            return True
    return bool((steps <= 1).all()) and int(other.sum()) <= 1 + TIES * steps.numel()
