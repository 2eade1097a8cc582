"""Quantised files: the forward is the deployed one's, and whole numbers stay whole numbers on the way into a file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from support.onnx_graphs import in_onnxruntime, model, node
from torch import Tensor

import lrp_compiler as lrp
from lrp_compiler.base.onnx_session import exact_options
from lrp_compiler.errors import CaptureError
from lrp_compiler.onnx_in import overflows

RANDOM = np.random.default_rng(0)
CONSTANTS: dict[str, Any] = {
    "s": np.float32(0.021),
    "z": np.uint8(117),
    "w": RANDOM.integers(-127, 128, (6, 64, 3, 3)).astype(np.int8),
    "sw": RANDOM.uniform(0.0005, 0.005, 6).astype(np.float32),
    "zw": np.zeros(6, np.int8),
    "b": RANDOM.integers(-9000, 9000, 6).astype(np.int32),
    "sy": np.float32(0.21),
    "zy": np.uint8(93),
}
CONSTANTS["sb"] = CONSTANTS["sw"] * CONSTANTS["s"]
AROUND = [
    node("QuantizeLinear", "x s z", "q"),
    node("DequantizeLinear", "q s z", "d"),
    node("DequantizeLinear", "w sw zw", "dw", axis=0),
    node("DequantizeLinear", "b sb", "db", axis=0),
    node("Conv", "d dw db", "c"),
    node("Relu", "c", "r"),
    node("QuantizeLinear", "r sy zy", "p"),
    node("DequantizeLinear", "p sy zy"),
]


def around(**changed: Any) -> onnx.ModelProto:
    constants = {name: np.asarray(array) for name, array in (CONSTANTS | changed).items()}
    return model(AROUND, {"x": ["batch", 64, 6, 6]}, constants=constants)


def test_a_layer_between_quantise_and_dequantise_is_one_of_whole_numbers_to_the_bit() -> None:
    """onnxruntime makes a convolution of integers of it, whose sums are exact; so are these."""
    proto = around()
    x = torch.randn(4, 64, 6, 6)

    found = lrp.from_onnx(proto)(x)

    assert torch.equal(found, in_onnxruntime(proto, {"x": x})[0])


def in_session(path: Path, level: str, feeds: dict[str, np.ndarray]) -> Any:
    options = exact_options() if overflows() else onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("by_channel", [True, False])
def test_layers_of_whole_numbers_are_rounded_alike_in_both_files_at_every_level(
    by_channel: bool, tmp_path: Path
) -> None:
    """Three in a row, of steps that make many sums end between two whole numbers."""
    random = np.random.default_rng(1)
    constants: dict[str, Any] = {"s": np.float32(0.1), "z": np.uint8(0)}
    nodes = [node("QuantizeLinear", "x s z", "q0")]
    for step in range(3):
        weights = {"w": random.integers(-4, 5, (8, 8, 3, 3)).astype(np.int8)}
        weights |= {"sw": random.choice(np.float32([0.1, 0.3, 0.05]), 8), "zw": np.zeros(8, np.int8)}
        if not by_channel:
            weights |= {"sw": np.float32(0.1), "zw": np.int8(0)}
        constants |= {f"{name}{step}": value for name, value in weights.items()}
        names = f"q{step} s z w{step} sw{step} zw{step} s z"
        nodes.append(node("QLinearConv", names, f"q{step + 1}", pads=[1] * 4))
    nodes += [node("DequantizeLinear", "q3 s z", "d"), node("ReduceMax", "d axes", keepdims=0)]
    constants["axes"] = np.array([2, 3])
    proto = model(nodes, {"x": ["batch", 8, 6, 6]}, constants={n: np.asarray(one) for n, one in constants.items()})
    x = torch.from_numpy(random.uniform(0, 3, (32, 8, 6, 6)).astype(np.float32))
    source, written = tmp_path / "m.onnx", tmp_path / "m.lrp.onnx"
    onnx.save(proto, source)

    lrp.compile(source, (x,), composite="epsilon-plus", target=1).to_onnx(written)

    want = in_session(source, "ENABLE_ALL", {"x": x.numpy()})
    for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
        np.testing.assert_array_equal(in_session(written, level, {"x": x.numpy()}), want, level)


HEAVY = pytest.mark.heavy


@pytest.mark.parametrize(
    "composite", [pytest.param("epsilon", marks=HEAVY), "epsilon-plus", pytest.param("attnlrp-gamma", marks=HEAVY)]
)
def test_a_layer_of_whole_numbers_hands_on_what_the_layer_of_floats_does(composite: str) -> None:
    """The float layer of the same weights, on the same quantised input."""
    proto = model([*AROUND[:-2], node("GlobalAveragePool", "r", "g"), node("Flatten", "g")], {"x": ["batch", 64, 6, 6]})
    arrays = {name: onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in CONSTANTS.items()}
    proto.graph.initializer.extend(arrays.values())
    conv = torch.nn.Conv2d(64, 6, 3)
    conv.weight.data = torch.tensor(CONSTANTS["w"]).float() * torch.tensor(CONSTANTS["sw"]).reshape(-1, 1, 1, 1)
    conv.bias.data = torch.tensor(CONSTANTS["b"]).float() * torch.tensor(CONSTANTS["sb"])
    pool, flatten = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    module = torch.nn.Sequential(conv, torch.nn.ReLU(), pool, flatten).eval()
    x = torch.round(torch.randn(3, 64, 6, 6) / 0.021).clamp(-117, 138) * 0.021

    found, wanted = (lrp.compile(one, (x,), composite=composite, target=1)(x) for one in (proto, module))

    a, b = found.relevance["x"], wanted.relevance["input"]
    # Whole numbers are summed exactly, 576 products of floats are not, and z⁺ divides by such sums.
    assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


class Rows:
    """A file that looks rows of 4 bits up, and multiplies them by 4-bit blocks."""

    table = RANDOM.integers(-8, 8, (512, 64)).astype(np.int8)
    weight = RANDOM.integers(0, 256, (128, 2, 16)).astype(np.uint8)

    @classmethod
    def proto(cls) -> onnx.ModelProto:
        proto = model(
            [
                node("GatherBlockQuantized", "t ids st", "rows", domain="com.microsoft", block_size=32),
                node("MatMulNBits", "rows w sw", "m", domain="com.microsoft", K=64, N=128, bits=4, block_size=32),
                node("ReduceMean", "m axes", keepdims=0),
            ],
            {"ids": ["batch", "length"]},
            constants={
                "st": RANDOM.uniform(0.01, 0.1, (512, 2)).astype(np.float32),
                "w": cls.weight,
                "sw": RANDOM.uniform(0.01, 0.1, (128, 2)).astype(np.float32),
                "axes": np.array([1]),
            },
            dtypes={"ids": TensorProto.INT64},
            opset=21,
            domains=["com.microsoft"],
        )
        proto.graph.initializer.append(helper.make_tensor("t", TensorProto.INT4, cls.table.shape, cls.table.flatten()))
        return proto


def test_weights_of_4_bits_take_4_bits_in_the_file(tmp_path: Path) -> None:
    proto = Rows.proto()
    ids = torch.randint(0, 512, (2, 7))
    path = tmp_path / "m.lrp.onnx"

    explainer = lrp.compile(proto, (ids,), composite="attnlrp", target=3)
    explainer.to_onnx(path)

    want = in_onnxruntime(proto, {"ids": ids})[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output, relevance = (torch.as_tensor(one) for one in session.run(None, {"ids": ids.numpy()}))
    torch.testing.assert_close(output, want)
    torch.testing.assert_close(relevance, explainer(ids).relevance["ids"], rtol=1e-5, atol=1e-6)
    stored = sum(len(one.raw_data) for one in onnx.load(path).graph.initializer)
    assert stored <= 1.1 * (Rows.table.size // 2 + Rows.weight.size + 4 * 2 * (512 + 128))


def test_weights_of_8_bits_are_not_unfolded(tmp_path: Path) -> None:
    """Small ones neither, which a constant folder would take for shapes."""
    proto, x, path = around(), torch.randn(2, 64, 6, 6), tmp_path / "m.lrp.onnx"

    lrp.compile(proto, (x,), composite="epsilon-plus", target=lrp.Target(1, position="sum")).to_onnx(path)

    sizes = {one.name: (one.data_type, int(np.prod(one.dims))) for one in onnx.load(path).graph.initializer}
    assert (TensorProto.INT8, CONSTANTS["w"].size) in sizes.values()
    assert all(count < CONSTANTS["w"].size for kind, count in sizes.values() if kind == TensorProto.FLOAT)


def test_what_lies_between_two_steps_may_be_rounded_either_way() -> None:
    """In a deep chain each is another number from there on; each node by itself is right, and so is the file."""
    scale = np.float32(0.1)
    nodes, name = [], "x"
    for step in range(4):
        nodes += [
            node("MatMul", f"{name} w", f"m{step}"),
            node("QuantizeLinear", f"m{step} s z", f"q{step}"),
            node("DequantizeLinear", f"q{step} s z", f"d{step}"),
        ]
        name = f"d{step}"
    nodes[-1].output[0] = "y"
    weight = (RANDOM.integers(-8, 9, (64, 64)) / 16).astype(np.float32)
    proto = model(nodes, {"x": ["batch", 64]}, constants={"w": weight, "s": np.asarray(scale), "z": np.uint8(128)[...]})
    x = torch.randint(-20, 20, (8, 64)) * 0.05

    lrp.compile(proto, (x,))


def test_a_quantised_file_that_is_read_wrongly_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is a tie; a node that is off by more, or often, is wrong."""
    from lrp_compiler.onnx_in.operators import quantised

    def floored(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.floor(x)

    proto = around()
    monkeypatch.setattr(quantised.torch, "round", floored)

    with pytest.raises(CaptureError, match="QuantizeLinear"):
        lrp.compile(proto, (torch.randn(2, 64, 6, 6),), target=lrp.Target(1, position="sum"))


def test_a_weight_may_be_called_as_the_exporter_calls_values(tmp_path: Path) -> None:
    names = [f"val_{number}" for number in range(12)]
    nodes = [node("Add", f"{'x' if k == 0 else f'h{k - 1}'} {name}", f"h{k}") for k, name in enumerate(names)]
    nodes[-1].output[0] = "y"
    shape = [node("Shape", "x", "n"), node("Gather", "n zero", "b"), node("Unsqueeze", "b zero", "bs")]
    proto = model([*shape, *nodes], {"x": ["batch", 4]}, constants={n: np.ones(4, np.float32) for n in names})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))

    lrp.compile(proto, (torch.randn(2, 4),), target="index").to_onnx(tmp_path / "m.lrp.onnx")

    onnxruntime.InferenceSession(tmp_path / "m.lrp.onnx", providers=["CPUExecutionProvider"])
