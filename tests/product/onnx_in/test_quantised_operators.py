"""Quantised operators are onnxruntime's: whole numbers to the last step, sums of them exactly."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from support.onnx_graphs import exact_sums, in_onnxruntime, model, node

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(4)

MICROSOFT = "com.microsoft"
RANDOM = np.random.default_rng(0)
U8, I8 = np.uint8, np.int8
SCALES: dict[str, Any] = {
    "sx": np.float32(0.021),
    "sa": np.float32(0.03),
    "sy": np.float32(0.05),
    "zx": U8(117),
    "za": U8(131),
    "zy": U8(120),
}
WEIGHT = RANDOM.integers(-127, 128, (5, 4, 3, 3)).astype(I8)
MATRIX = RANDOM.integers(-127, 128, (6, 5)).astype(I8)


def of(op: str, inputs: str, **attributes: Any) -> onnx.NodeProto:
    return node(op, inputs, domain=MICROSOFT, **attributes)


def filled(*shape: int, dtype: Any = U8) -> np.ndarray:
    information = np.iinfo(dtype)
    return RANDOM.integers(information.min, information.max + 1, shape).astype(dtype)


CONV = {
    "w": WEIGHT,
    "sw": RANDOM.uniform(0.001, 0.01, 5).astype(np.float32),
    "zw": np.zeros(5, I8),
    "b": RANDOM.integers(-9000, 9000, 5).astype(np.int32),
}
DENSE = {"w": MATRIX, "sw": RANDOM.uniform(0.001, 0.01, 5).astype(np.float32), "zw": np.zeros(5, I8)}
CASES: dict[str, tuple[onnx.NodeProto, list[int], dict[str, Any], int]] = {
    "convolution": (node("QLinearConv", "q sx zx w sw zw sy zy b", pads=[1, 1, 1, 1]), [2, 4, 6, 7], CONV, 0),
    "product": (node("QLinearMatMul", "q sx zx w s z sy zy"), [3, 6], DENSE | {"s": np.float32(0.01), "z": I8(0)}, 0),
    "sum": (of("QLinearAdd", "q sx zx a sa za sy zy"), [2, 3, 4], {"a": filled(3, 4)}, 0),
    "product by elements": (of("QLinearMul", "q sx zx a sa za sy zy"), [2, 3, 4], {"a": filled(2, 3, 4)}, 0),
    "sigmoid": (of("QLinearSigmoid", "q sx zx s zy"), [4, 9], {"s": np.float32(1 / 256)}, 0),
    "leaky": (of("QLinearLeakyRelu", "q sx zx sy zy", alpha=0.2), [4, 9], {}, 0),
    "softmax": (of("QLinearSoftmax", "q sx zx s z", opset=13), [4, 9], {"s": np.float32(1 / 256), "z": U8(0)}, 0),
    "softmax of the rest": (
        of("QLinearSoftmax", "q sx zx s z", opset=12, axis=1),
        [4, 3, 3],
        {"s": np.float32(1 / 256), "z": U8(0)},
        0,
    ),
    "average": (
        of("QLinearAveragePool", "q sx zx sy zy", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        [2, 3, 7, 7],
        {},
        0,
    ),
    "average, channels last": (
        of("QLinearAveragePool", "q sx zx sy zy", kernel_shape=[2, 2], channels_last=1, count_include_pad=1),
        [2, 6, 6, 3],
        {},
        0,
    ),
    "mean over space": (of("QLinearGlobalAveragePool", "q sx zx sy zy"), [2, 3, 7, 7], {}, 0),
    "mean over space, channels last": (
        of("QLinearGlobalAveragePool", "q sx zx sy zy", channels_last=1),
        [2, 7, 7, 3],
        {},
        0,
    ),
    "concatenation": (of("QLinearConcat", "sy zy q sx zx a sa za", axis=1), [2, 3, 4], {"a": filled(2, 2, 4)}, 0),
    "choice": (
        of("QLinearWhere", "c q sx zx a sa za sy zy"),
        [2, 3, 4],
        {"a": filled(2, 3, 4), "c": np.array([[True], [False], [True]])},
        0,
    ),
    "convolution, channels last": (
        of("QLinearConv", "q sx zx w sw zw sy zy b", channels_last=1, pads=[1, 1, 1, 1]),
        [2, 6, 7, 4],
        CONV,
        0,
    ),
    "dense, quantised again": (
        of("QGemm", "q sx zx w sw zw b sy zy", transB=1, alpha=0.5),
        [3, 6],
        DENSE | {"w": MATRIX.T.copy(), "b": CONV["b"]},
        0,
    ),
    "dense, to floats": (of("QGemm", "q sx zx w sw zw"), [3, 6], DENSE, TensorProto.FLOAT),
    "integers to floats": (
        of("MatMulIntegerToFloat", "q w sx sw zx zw b"),
        [2, 3, 6],
        DENSE | {"b": np.ones(5, np.float32)},
        TensorProto.FLOAT,
    ),
    "sums of many products": (
        node("MatMulInteger", "q w zx"),
        [2, 1, 4096],
        {"w": np.full((4096, 3), 127, I8)},
        TensorProto.INT32,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_between_whole_numbers_is_onnxruntimes(name: str) -> None:
    one, shape, constants, kind = CASES[name]
    given = {n: np.asarray(a) for n, a in (SCALES | constants).items() if n in one.input}
    dtypes = {"q": TensorProto.UINT8, "y": kind or TensorProto.UINT8}
    proto = model([one], {"q": shape}, constants=given, dtypes=dtypes, domains=[MICROSOFT])
    q = torch.randint(0, 256, shape, dtype=torch.uint8)
    (want,) = in_onnxruntime(proto, {"q": q})

    got = lrp.from_onnx(proto)(q)

    assert got.dtype == want.dtype
    if kind == TensorProto.FLOAT:
        torch.testing.assert_close(got, want)
        return
    steps = (got.long() - want.long()).abs()
    assert int(steps.max()) <= (0 if kind else 1)
    assert int((steps == 1).sum()) <= 0.02 * steps.numel() + 1


@exact_sums
def test_a_product_that_quantises_by_itself_is_onnxruntimes() -> None:
    constants = {"w": MATRIX, "s": DENSE["sw"], "z": DENSE["zw"], "b": np.ones(5, np.float32)}
    one = of("DynamicQuantizeMatMul", "x w s z b")
    proto = model([one], {"x": ["batch", 6]}, constants=constants, domains=[MICROSOFT])
    x = torch.randn(4, 6)

    explainer = lrp.compile(proto, (x,), composite="attnlrp", target=1)

    torch.testing.assert_close(explainer(x).output, in_onnxruntime(proto, {"x": x})[0])
    # The relevance of a linear map of what was quantised, whoever chose the size of a step; rounding is a constant.
    weight = torch.from_numpy((MATRIX[:, 1].astype(np.float32) - DENSE["zw"][1]) * DENSE["sw"][1])
    # A step is the range over 255, which two programs round apart by its last digit, and so x over a step.
    torch.testing.assert_close(explainer(x).relevance["x"], x * weight, rtol=1e-4, atol=1e-5)
    wanted = explainer(x).output[:, 1] - 1
    rest = explainer.audit(x).absorbed["quantisation"]
    torch.testing.assert_close(explainer(x).relevance["x"].sum() + rest, wanted.sum(), rtol=1e-4, atol=1e-5)


@exact_sums
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_recurrent_layer_of_stored_weights_is_onnxruntimes(direction: str) -> None:
    parts = 2 if direction == "bidirectional" else 1
    constants = {
        "w": filled(parts, 4, 20, dtype=I8),
        "r": filled(parts, 5, 20, dtype=I8),
        "b": RANDOM.normal(size=(parts, 40)).astype(np.float32),
        "sw": RANDOM.uniform(0.001, 0.005, (parts, 20)).astype(np.float32),
        "sr": RANDOM.uniform(0.001, 0.005, (parts, 20)).astype(np.float32),
        "z": np.zeros((parts, 20), I8),
    }
    one = of("DynamicQuantizeLSTM", "x w r b _ _ _ _ sw z sr z", hidden_size=5, direction=direction)
    proto = model([one], {"x": [3, 2, 4]}, constants=constants, domains=[MICROSOFT])
    x = torch.randn(3, 2, 4)

    found = lrp.from_onnx(proto)(x)

    # What lies between two steps may be rounded the other way, and is a step of the hidden state's off from then on.
    torch.testing.assert_close(found, in_onnxruntime(proto, {"x": x})[0], rtol=0, atol=5e-3)


def test_an_attention_of_whole_numbers_is_onnxruntimes() -> None:
    constants = {
        "w": filled(8, 24, dtype=I8),
        "b": RANDOM.normal(size=24).astype(np.float32),
        "sw": np.float32(0.004),
        "zw": I8(0),
        "m": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], np.int32),
    }
    one = of("QAttention", "q w b sx sw m zx zw", num_heads=2)
    given = {n: np.asarray(a) for n, a in (SCALES | constants).items() if n in one.input}
    dtypes = {"q": TensorProto.UINT8}
    proto = model([one], {"q": [2, 5, 8]}, constants=given, dtypes=dtypes, domains=[MICROSOFT])
    q = torch.randint(0, 256, (2, 5, 8), dtype=torch.uint8)

    torch.testing.assert_close(lrp.from_onnx(proto)(q), in_onnxruntime(proto, {"q": q})[0], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize("zero", [None, 117])
def test_an_index_into_a_stored_table_gets_what_one_into_the_floats_gets(dtype: Any, zero: int | None) -> None:
    """The zero point that is taken away from a row is no bias that takes a share."""
    stored = filled(20, 6, dtype=dtype)
    scale, shift = np.float32(0.03), dtype(0 if zero is None else zero)
    floats = (stored.astype(np.float32) - np.float32(shift)) * scale
    after = [node("ReduceMean", "d one", "m", keepdims=0), node("Relu", "m", "r"), node("MatMul", "r w")]
    rest = {"w": RANDOM.normal(size=(6, 3)).astype(np.float32), "one": np.array([1])}
    names = "e s" if zero is None else "e s z"
    quantised = model(
        [node("Gather", "t ids", "e"), node("DequantizeLinear", names, "d"), *after],
        {"ids": ["batch", "length"]},
        constants=rest | {"t": stored, "s": scale} | ({} if zero is None else {"z": shift}),
        dtypes={"ids": TensorProto.INT64},
    )
    plain = model(
        [node("Gather", "t ids", "d"), *after],
        {"ids": ["batch", "length"]},
        constants=rest | {"t": floats},
        dtypes={"ids": TensorProto.INT64},
    )
    ids = torch.randint(0, 20, (3, 5))

    got, want = (lrp.compile(file, (ids[:2],), target=1)(ids) for file in (quantised, plain))

    torch.testing.assert_close(got.output, torch.as_tensor(in_onnxruntime(quantised, {"ids": ids})[0]))
    torch.testing.assert_close(got.relevance["ids"], want.relevance["ids"], rtol=1e-5, atol=1e-6)
