"""Operators at their ends, as onnxruntime has them: steps of 0, numbers beyond a dtype, activations in 8 bits, …."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.onnx_graphs import in_onnxruntime, model, node
from torch.utils._python_dispatch import TorchDispatchMode

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError, FormatError, LrpWarning
from lrp_compiler.onnx_in import parity

MICROSOFT = "com.microsoft"
RANDOM = np.random.default_rng(0)
Constants = dict[str, Any]


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def built(nodes: list[onnx.NodeProto], shape: list[Any], constants: Constants, opset: int = 20) -> onnx.ModelProto:
    held = {name: np.asarray(value) for name, value in constants.items()}
    return model(nodes, {"x": shape}, constants=held, opset=opset, domains=[MICROSOFT])


def check(proto: onnx.ModelProto, *inputs: Any, tolerance: float = 1e-5) -> None:
    module = lrp.from_onnx(proto)
    for one in inputs:
        x = torch.as_tensor(one)
        (want,) = in_onnxruntime(proto, {"x": x})
        torch.testing.assert_close(module(x), want, atol=tolerance * float(want.abs().max()), rtol=0)


def of_the_past(rows: int, new: int, **attributes: Any) -> onnx.ModelProto:
    """Attention to a buffer of five keys, of which each row has filled its own number."""
    names = "q k v past_k past_v lengths total cos sin"
    nodes = [
        node("MatMul", "x w", "h"),
        node("Split", "h parts", "q k v", axis=2),
        node("GroupQueryAttention", names, "y nk nv", domain=MICROSOFT, num_heads=2, kv_num_heads=1, **attributes),
    ]
    angle = np.outer(np.arange(20), 10000.0 ** -(np.arange(8) / 8))
    past = {name: [rows, 1, 5, 16] for name in ("past_k", "past_v")}
    return model(
        nodes,
        {"x": [rows, new, 8], **past, "lengths": [rows], "total": []},
        constants={
            "w": floats(8, 64) * 0.4,
            "parts": np.array([32, 16, 16]),
            "cos": np.cos(angle).astype(np.float32),
            "sin": np.sin(angle).astype(np.float32),
        },
        dtypes={"lengths": TensorProto.INT32, "total": TensorProto.INT32, "y": TensorProto.FLOAT},
        domains=[MICROSOFT],
    )


@pytest.mark.parametrize("attributes", [{"do_rotary": 1}, {"local_window_size": 3}])
@pytest.mark.parametrize(("rows", "new"), [(3, 1), (1, 4)])
def test_of_a_buffer_with_room_what_is_filled_is_attended_to(rows: int, new: int, attributes: dict[str, int]) -> None:
    proto = of_the_past(rows, new, **attributes)
    module = lrp.from_onnx(proto)
    given = [floats(rows, new, 8), floats(rows, 1, 5, 16), floats(rows, 1, 5, 16)]
    for filled in ([5, 5, 5], [2, 5, 0], [1, 3, 4]):
        lengths = np.array(filled[:rows], np.int32) + new - 1
        tensors = [torch.as_tensor(one) for one in (*given, lengths, np.int32(5 + new))]
        feeds = dict(zip(module.input_names, tensors, strict=True))
        torch.testing.assert_close(module(*tensors), in_onnxruntime(proto, feeds)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2])
def test_floats_of_8_bits_end_where_they_end_and_are_audited(kind: int) -> None:
    nodes = [
        node("QuantizeLinear", "x s", "q", output_dtype=int(kind)),
        node("DequantizeLinear", "q s", "d"),
        node("MatMul", "d w"),
    ]
    proto = built(nodes, ["batch", 4], {"s": np.float32(0.01), "w": floats(4, 3)}, 21)
    x = floats(3, 4)

    check(proto, x, x * 1e5, x * 1e9)

    books = lrp.compile(proto, composite="epsilon").audit(torch.as_tensor(x * 1e5))
    assert abs(books.error) <= 1e-9 * abs(books.seed)


def test_steps_of_zero_make_zeros() -> None:
    nodes = [node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", axis=1)]
    constants = {"s": np.float32([0.1, 0, 0.02, 1]), "z": np.uint8([0, 5, 128, 255])}

    check(built(nodes, ["batch", 4], constants, 21), floats(3, 4), np.zeros((2, 4), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "block", "length"), [(4, 32, 256), (4, 16, 40), (8, 32, 72), (2, 32, 128)])
@pytest.mark.parametrize("level", [0, 4])
def test_activations_are_quantised_where_the_file_asks_for_it(bits: int, block: int, length: int, level: int) -> None:
    blocks = -(-length // block)
    packed = RANDOM.integers(0, 256, (32, blocks, block * bits // 8)).astype(np.uint8)
    attributes = {"K": length, "N": 32, "block_size": block, "bits": bits, "accuracy_level": level}
    proto = built(
        [node("MatMulNBits", "x w s", domain=MICROSOFT, **attributes)],
        ["batch", length],
        {"w": packed, "s": np.abs(floats(32 * blocks)) * 0.01 + 0.001},
    )

    check(proto, floats(1, length), floats(7, length) * 10)

    x = torch.as_tensor(floats(2, length))
    found = lrp.compile(proto, composite="epsilon", target=3)(x)
    weight = torch.autograd.functional.jacobian(lrp.from_onnx(_at_level(proto, 0)), x[:1])[0, 3, 0]
    # The blocks' steps carry nothing: each element keeps what is its own, but for rounding to a step of 8 bits (1/127
    # of its block's largest, half of that at most).
    want = weight * x
    torch.testing.assert_close(found.relevance["x"], want, atol=0.02 * float(want.abs().max()), rtol=0)


def _at_level(proto: onnx.ModelProto, level: int) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    next(one for one in changed.graph.node[0].attribute if one.name == "accuracy_level").i = level
    return changed


def between(op: str, zero: Any, shape: list[Any], **attributes: Any) -> onnx.ModelProto:
    """An operator between quantised tensors, without the zero point of its result."""
    given = "q sx zx q sx zx sy" if op in ("QLinearAdd", "QLinearMul") else "q sx zx sy"
    nodes = [
        node("QuantizeLinear", "x sx zx", "q"),
        node(op, given, "r", domain=MICROSOFT, **attributes),
        node("DequantizeLinear", "r sy"),
    ]
    return built(nodes, shape, {"sx": np.float32(0.03), "zx": zero, "sy": np.float32(0.05)})


@pytest.mark.parametrize("zero", [np.int8(3), np.uint8(130)])
def test_a_result_without_a_zero_point_has_the_dtype_of_its_operand(zero: Any) -> None:
    check(between("QLinearAdd", zero, ["batch", 9]), floats(5, 9) * 4)
    check(between("QLinearMul", zero, ["batch", 9]), floats(5, 9) * 4)
    check(between("QLinearAveragePool", zero, ["batch", 2, 4, 4], kernel_shape=[2, 2]), floats(3, 2, 4, 4))


@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_what_ends_onnxruntime_is_refused_before(op: str) -> None:
    with pytest.raises(FormatError, match=f"^A {op} lacks the zero point of its result"):
        lrp.compile(between(op, np.int8(3), ["batch", 9]))


def test_a_number_between_two_steps_is_a_tie_however_few_there_are() -> None:
    """Of four whole numbers two lie between two, and are rounded the other way: half of them."""
    got = torch.tensor([2, 4, 7, 9], dtype=torch.uint8)
    want = np.array([3, 4, 6, 9], np.uint8)

    assert parity._is_near(got, want, torch.tensor([2.5, 4.1, 6.5000005, 9.2]))
    assert not parity._is_near(got, want, torch.tensor([2.5, 4.1, 6.7, 9.2]))
    assert not parity._is_near(got, want)


def test_one_element_is_its_own_mean() -> None:
    proto = built([node("InstanceNormalization", "x s b")], ["batch", 3, 1, 1], {"s": floats(3), "b": floats(3)})
    # One element less its own mean is nothing but rounding, divided by √ε: measured, 1.3e-5.
    check(proto, floats(2, 3, 1, 1), floats(1, 3, 1, 1), tolerance=4e-5)


def test_a_transposed_convolution_may_be_longer_than_it_is() -> None:
    for nodes, constants in (
        ([node("ConvTranspose", "x w", strides=[3], output_shape=[16])], {"w": floats(3, 2, 2)}),
        (
            [node("ConvTranspose", "x w b", strides=[2], output_shape=[9], auto_pad="SAME_LOWER")],
            {"w": floats(3, 2, 4), "b": floats(2)},
        ),
    ):
        check(built(nodes, ["batch", 3, 5], constants), floats(2, 3, 5))


@pytest.mark.parametrize(
    ("names", "alpha", "beta"),
    [
        (["Sigmoid", "LeakyRelu", "HardSigmoid", "Tanh"], [0.3, 0.4], [0.6]),
        (["HardSigmoid", "Tanh", "Sigmoid", "ScaledTanh"], [0.3, 0.8], [0.6, 0.9]),
    ],
)
def test_parameters_are_of_the_activations_that_take_any(
    names: list[str], alpha: list[float], beta: list[float]
) -> None:
    attributes = {"activations": names, "activation_alpha": alpha, "activation_beta": beta}
    proto = built(
        [node("GRU", "x w r b", hidden_size=4, direction="bidirectional", **attributes)],
        [6, "batch", 3],
        {"w": floats(2, 12, 3), "r": floats(2, 12, 4), "b": floats(2, 24)},
    )
    check(proto, floats(6, 2, 3), floats(6, 5, 3))


def repeated(times: int, deep: int) -> onnx.ModelProto:
    """Loops in one another, each of so many rounds; less than 0: without an end."""
    body = [node("Relu", "a_0", "b_0")]
    for level in range(deep):
        inputs = [
            helper.make_tensor_value_info(f"i_{level}", TensorProto.INT64, []),
            helper.make_tensor_value_info(f"c_{level}", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"a_{level}", TensorProto.FLOAT, None),
        ]
        outputs = [
            helper.make_tensor_value_info(f"d_{level}", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"b_{level}", TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph([*body, node("Identity", f"c_{level}", f"d_{level}")], "g", inputs, outputs)
        last = level == deep - 1
        before, behind = ("x", "y") if last else (f"a_{level + 1}", f"b_{level + 1}")
        body = [node("Loop", f"{'times' if times >= 0 else '_'} _ {before}", behind, body=graph)]
    return built(body, [2, 4], {"times": np.int64(times)})


def test_the_rounds_of_loops_in_one_another_count_together() -> None:
    check(repeated(7, 2), floats(2, 4))
    with pytest.raises(CaptureError, match="A Loop runs more than 10,000 times, with the loops in it"):
        lrp.from_onnx(repeated(5000, 2))(torch.ones(2, 4))


@pytest.mark.parametrize(("times", "deep", "runs"), [(10_001, 1, 0), (1 << 40, 1, 0), (-1, 1, 0), (5000, 2, 5001)])
def test_a_loop_that_is_known_to_be_too_long_is_not_begun(times: int, deep: int, runs: int) -> None:
    """Nor is it tried at other sizes: a file was refused after half a minute."""
    found = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: object, types: object, args: Any = (), kwargs: Any = None) -> Any:
            found.append(function)
            return function(*args, **(kwargs or {}))  # type: ignore[operator]

    with Counting(), pytest.raises(CaptureError, match=r"^A Loop runs more than 10,000 times"):
        lrp.compile(repeated(times, deep))

    assert found.count(torch.ops.aten.relu.default) <= runs


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ([node("Resize", "x _ s", mode="foo")], r"The mode of a Resize is 'foo', and can be linear, cubic\."),
        (
            [node("Resize", "x _ s", coordinate_transformation_mode="half_pixl")],
            r"The coordinate_transformation_mode .* \(did you mean 'half_pixel'\?\)\.",
        ),
        ([node("Pad", "x p", mode="foo")], r"The mode of a Pad is 'foo'"),
        ([node("RNN", "x w r", "", direction="sideways")], r"The direction of a recurrent layer is 'sideways'"),
    ],
)
def test_words_that_are_none_are_named(nodes: list[onnx.NodeProto], sentence: str) -> None:
    constants = {"s": np.float32([1, 1, 2]), "p": np.array([0, 0, 1, 0, 0, 1]), "w": floats(1, 4, 2)}
    proto = built(nodes, [3, 2, 2], constants | {"r": floats(1, 4, 4)})
    proto.graph.node[0].output[:] = ["y"]

    with pytest.raises(FormatError, match=sentence):
        lrp.compile(proto)


def test_sizes_of_two_names_that_must_be_one_are_told() -> None:
    proto = model([node("Add", "a b")], {"a": ["n", 4], "b": ["m", 4]})

    with pytest.warns(LrpWarning, match="The sizes 'n' and 'm' of the file are one in the explainer"):
        lrp.compile(proto)


@pytest.mark.slow
def test_a_size_may_be_the_root_of_another(tmp_path: Any) -> None:
    nodes = [
        node("Shape", "x", "s", start=1, end=2),
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Sqrt", "f", "g"),
        node("Ceil", "g", "h"),
        node("Cast", "h", "end", to=TensorProto.INT64),
        node("Slice", "x zero end one", "r"),
        node("ReduceSum", "r one", keepdims=0),
    ]
    proto = built(nodes, ["batch", "length", 4], {"zero": np.array([0]), "one": np.array([1])})
    explainer = lrp.compile(proto, composite="epsilon", target=1)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    written = lrp.OnnxExplainer(tmp_path / "m.lrp.onnx")

    for length in (10, 16, 37):
        x = torch.as_tensor(floats(2, length, 4))
        (want,) = in_onnxruntime(proto, {"x": x})
        torch.testing.assert_close(explainer(x).output, want)
        np.testing.assert_allclose(written(x.numpy()).output, want, rtol=1e-5)


def test_an_output_of_whole_numbers_is_not_proposed_for_itself() -> None:
    nodes = [node("MatMul", "x w", "p"), node("ArgMax", "p", "i", axis=1)]
    proto = model(
        nodes,
        {"x": ["batch", 4]},
        ("i", "p"),
        {"w": floats(4, 3)},
        dtypes={"i": TensorProto.INT64},
    )

    with pytest.raises(lrp.errors.InputError, match=r"There is no float output 'i': the model returns 'p' \(1\)"):
        lrp.compile(proto, target=lrp.Target("argmax", output="i"))


@pytest.mark.filterwarnings("ignore::lrp_compiler.errors.LrpWarning")
def test_a_second_attempt_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """The batch is open in the file, and the product takes the example's alone: torch logs what it meets."""
    nodes = [node("Reshape", "x to", "r"), node("Flatten", "r", "f"), node("MatMul", "f w")]
    lrp.compile(built(nodes, ["batch", 3, 4], {"to": np.array([2, -1, 2]), "w": floats(12, 5)}))

    assert not capfd.readouterr().err
