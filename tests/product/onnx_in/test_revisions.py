"""An operator means what its file's opset says."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from support.onnx_graphs import in_onnxruntime, model, node

import lrp_compiler as lrp

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
INT = np.int64


def test_softmax_is_over_all_dims_behind_an_axis_until_opset_12() -> None:
    old, new = (lrp.from_onnx(model([node("Softmax", "x", axis=1)], {"x": [2, 3, 4]}, opset=o)) for o in (12, 13))

    torch.testing.assert_close(old(X), X.flatten(1).softmax(-1).reshape(X.shape))
    torch.testing.assert_close(new(X), X.softmax(1))


CASES: dict[str, tuple[int, onnx.NodeProto, dict[str, np.ndarray]]] = {
    "hard sigmoid": (13, node("HardSigmoid", "x", alpha=0.3, beta=0.4), {}),
    "clip by attributes": (8, node("Clip", "x", min=-0.5, max=0.5), {}),
    "clip by inputs": (13, node("Clip", "x low high"), {"low": np.float32(-0.5), "high": np.float32(0.5)}),
    "clip from above": (13, node("Clip", "x _ high"), {"high": np.float32(0.5)}),
    "sum by an attribute": (11, node("ReduceSum", "x", axes=[1], keepdims=0), {}),
    "sum by an input": (13, node("ReduceSum", "x axes", keepdims=0), {"axes": np.array([-2], INT)}),
    "sum over nothing": (13, node("ReduceSum", "x", noop_with_empty_axes=1), {}),
    "mean by an attribute": (13, node("ReduceMean", "x", axes=[1, 2]), {}),
    "mean by an input": (18, node("ReduceMean", "x axes"), {"axes": np.array([1, 2], INT)}),
    "slice by attributes": (9, node("Slice", "x", starts=[1], ends=[-1], axes=[2]), {}),
    "slice backwards": (
        13,
        node("Slice", "x from to axis step"),
        {"from": np.array([-1]), "to": np.array([-(1 << 40)]), "axis": np.array([2]), "step": np.array([-2])},
    ),
    "pad by attributes": (10, node("Pad", "x", pads=[0, 1, 0, 0, 0, 2], value=1.5), {}),
    "pad by inputs": (
        18,
        node("Pad", "x by _ axes", mode="reflect"),
        {"by": np.array([2, 1]), "axes": np.array([2])},
    ),
    "squeeze by attributes": (11, node("Unsqueeze", "x", axes=[0, -1]), {}),
    "squeeze by inputs": (13, node("Unsqueeze", "x axes"), {"axes": np.array([0, -1])}),
    "split by a count": (18, node("Split", "x", "y z", axis=2, num_outputs=2), {}),
    "top by an attribute": (9, node("TopK", "x", "y z", k=2), {}),
    "top by an input": (11, node("TopK", "x k", "y z", largest=0), {"k": np.array([2])}),
    "upsample by attributes": (7, node("Upsample", "x", scales=[1.0, 1.0, 2.0]), {}),
    "resize of opset 10": (10, node("Resize", "x by", mode="linear"), {"by": np.array([1, 1, 2], np.float32)}),
    "smaller of opset 10": (10, node("Resize", "x by"), {"by": np.array([1, 0.6, 0.6], np.float32)}),
    "smaller and larger of opset 10": (10, node("Resize", "x by"), {"by": np.array([1, 0.4, 2.3], np.float32)}),
    "resize of half pixels": (19, node("Resize", "x _ by", mode="linear"), {"by": np.array([1, 1, 2], np.float32)}),
    "resize by a cube": (19, node("Resize", "x _ by", mode="cubic"), {"by": np.array([1, 1, 1.7], np.float32)}),
    "cumulative sum": (14, node("CumSum", "x axis", exclusive=1, reverse=1), {"axis": np.array(2, INT)}),
    "average pool of one more": (
        19,
        node("AveragePool", "x", kernel_shape=[2], strides=[2], pads=[0, 1], count_include_pad=1),
        {},
    ),
    "max pool that keeps its size": (
        12,
        node("MaxPool", "x", kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER"),
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_what_its_opset_says(name: str) -> None:
    opset, one, constants = CASES[name]
    proto = model(
        [one], {"x": [2, 3, 4]}, list(one.output), {n: np.asarray(a) for n, a in constants.items()}, opset=opset
    )
    if one.op_type == "TopK":
        proto.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    expected = ReferenceEvaluator(proto).run(None, {"x": X.numpy()}) if opset > 10 else in_onnxruntime(proto, {"x": X})

    found = lrp.from_onnx(proto)(X)

    for got, want in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        torch.testing.assert_close(got, torch.as_tensor(np.asarray(want).copy()), rtol=1e-5, atol=1e-5)


RECURRENT = [
    ("LSTM", 4, {}),
    ("LSTM", 4, {"direction": "bidirectional"}),
    ("LSTM", 4, {"direction": "reverse", "layout": 1}),
    ("LSTM", 4, {"clip": 0.3, "input_forget": 1}),
    ("GRU", 3, {"linear_before_reset": 1}),
    ("GRU", 3, {"linear_before_reset": 0, "direction": "bidirectional"}),
    ("RNN", 1, {"direction": "bidirectional"}),
    ("RNN", 1, {"activations": ["Relu"]}),
]


@pytest.mark.parametrize(("op", "gates", "options"), RECURRENT, ids=str)
def test_recurrent_layers_are_onnxruntimes(op: str, gates: int, options: dict[str, object]) -> None:
    random = np.random.default_rng(0)
    parts = 2 if options.get("direction") == "bidirectional" else 1
    shape = [3, 5, 4] if options.get("layout") else [5, 3, 4]
    weights = {
        "w": random.normal(size=(parts, gates * 6, 4)),
        "r": random.normal(size=(parts, gates * 6, 6)),
        "b": random.normal(size=(parts, 2 * gates * 6)),
    }
    constants = {name: array.astype(np.float32) for name, array in weights.items()}
    proto = model([node(op, "x w r b", "y h", hidden_size=6, **options)], {"x": shape}, ["y", "h"], constants, opset=14)
    x = torch.randn(shape)
    # onnxruntime has no batch-first layout: the reference has.
    run = (
        ReferenceEvaluator(proto).run(None, {"x": x.numpy()})
        if options.get("layout")
        else in_onnxruntime(proto, {"x": x})
    )

    for got, want in zip(lrp.from_onnx(proto)(x), run, strict=True):
        torch.testing.assert_close(got, torch.as_tensor(np.asarray(want)))
