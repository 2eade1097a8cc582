"""What is computed of shapes stays open: exported at one size, a file runs at any other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.onnx_graphs import in_onnxruntime, model, node

import lrp_compiler as lrp

INT = np.int64


def flattened() -> onnx.ModelProto:
    """`x.reshape(x.shape[0], -1)`, the size by Gather, Unsqueeze and Concat."""
    return model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "b", axis=0),
            node("Unsqueeze", "b axes", "b1"),
            node("Concat", "b1 rest", "to", axis=0),
            node("Reshape", "x to"),
        ],
        {"x": ["batch", "length", 4]},
        constants={"zero": np.array(0, INT), "axes": np.array([0], INT), "rest": np.array([-1], INT)},
    )


def halved() -> onnx.ModelProto:
    """The first half of a sequence, the size by Div, Mul, Cast and Floor of floats."""
    return model(
        [
            node("Shape", "x", "s", start=1, end=2),
            node("Cast", "s", "f", to=onnx.TensorProto.FLOAT),
            node("Mul", "f half", "g"),
            node("Floor", "g", "h"),
            node("Cast", "h", "end", to=onnx.TensorProto.INT64),
            node("Slice", "x zero end one"),
        ],
        {"x": ["batch", "length", 4]},
        constants={"half": np.array([0.5], np.float32), "zero": np.array([0], INT), "one": np.array([1], INT)},
    )


def expanded() -> onnx.ModelProto:
    """How torch.onnx writes `expand(-1, …)`: ConstantOfShape, Equal and Where on the sizes."""
    return model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "b", axis=0),
            node("Concat", "b minus", "wanted", axis=0),
            node("Shape", "wanted", "rank"),
            node("ConstantOfShape", "rank", "ones", value=onnx.numpy_helper.from_array(np.array([1], INT))),
            node("Mul", "ones minus", "negative"),
            node("Equal", "wanted negative", "is"),
            node("Where", "is ones wanted", "to"),
            node("Expand", "w to", "e"),
            node("Unsqueeze", "e one", "u"),
            node("Add", "x u"),
        ],
        {"x": ["batch", "length", 4]},
        constants={
            "zero": np.array([0], INT),
            "minus": np.array([-1], INT),
            "one": np.array([1], INT),
            "w": np.ones((1, 4), np.float32),
        },
    )


def positions() -> onnx.ModelProto:
    """A Range as long as the sequence, looked up in a table."""
    return model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s one", "n", axis=0),
            node("Range", "zero n one", "r"),
            node("Gather", "table r", "p", axis=0),
            node("Add", "x p"),
        ],
        {"x": ["batch", "length", 4]},
        constants={
            "zero": np.array(0, INT),
            "one": np.array(1, INT),
            "table": np.arange(160, dtype=np.float32).reshape(40, 4),
        },
    )


@pytest.mark.parametrize("build", [flattened, expanded, positions])
def test_an_export_runs_at_other_sizes(build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    module = lrp.from_onnx(proto)
    other = torch.randn(5, 13, 4)

    program = torch.export.export(module, module.example_inputs(), dynamic_shapes=module.dynamic_shapes())

    torch.testing.assert_close(program.module()(other), in_onnxruntime(proto, {"x": other})[0])


def test_fractions_of_sizes_stay_open() -> None:
    """As an explainer: torch.export alone asks for a range in which half a length is never 1."""
    explainer = lrp.compile(halved(), target=lrp.Target(position="sum"))
    other = torch.randn(5, 13, 4)

    torch.testing.assert_close(explainer(other).output, other[:, :6])


def test_open_sizes_have_the_names_of_the_file() -> None:
    explainer = lrp.compile(
        model(
            [node("ReduceMean", "x axis", "m", keepdims=0), node("MatMul", "m w")],
            {"x": ["batch", "tokens", 3]},
            constants={"axis": np.array([1], INT), "w": np.ones((3, 3), np.float32)},
        )
    )

    assert [spec.shape for spec in explainer.about.inputs] == [("batch", "tokens", 3)]
    assert explainer(torch.randn(7, 5, 3)).relevance["x"].shape == (7, 5, 3)


def test_a_file_that_says_open_and_is_not_runs_at_its_only_size() -> None:
    proto = model(
        [node("Reshape", "x to", "r"), node("MatMul", "r w")],
        {"x": ["batch", "length", 4]},
        constants={"to": np.array([-1, 28], INT), "w": np.ones((28, 3), np.float32)},
    )

    explainer = lrp.compile(proto)

    assert explainer(torch.randn(5, 7, 4)).output.shape == (5, 3)


def test_names_that_python_does_not_take_are_kept() -> None:
    proto = model(
        [node("MatMul", "input.1 w", "out/put:0")],
        {"input.1": ["batch", 4]},
        ["out/put:0"],
        {"w": np.ones((4, 3), np.float32)},
    )

    explainer = lrp.compile(proto)

    assert [spec.name for spec in explainer.about.inputs] == ["input.1"]
    assert [spec.name for spec in explainer.about.outputs] == ["out/put:0"]
    assert list(explainer(**{"input.1": torch.randn(3, 4)}).relevance) == ["input.1"]


def test_an_input_with_an_initialiser_is_its_default() -> None:
    proto = model([node("Mul", "x w")], {"x": ["batch", 3], "w": [3]}, constants={"w": np.full(3, 2.0, np.float32)})

    module = lrp.from_onnx(proto)

    assert module.input_names == ["x"]
    torch.testing.assert_close(module(torch.ones(2, 3)), torch.full((2, 3), 2.0))


def test_a_constant_given_for_an_input_decides_a_branch() -> None:
    def branch(name: str, factor: float) -> onnx.GraphProto:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        inner = node("Constant", "", f"{name}_factor", value_float=factor)
        return onnx.helper.make_graph([inner, node("Mul", f"x {name}_factor", name)], name, [], [value])

    proto = model(
        [
            node("Equal", "rate wanted", "is"),
            node("If", "is", then_branch=branch("a", 2.0), else_branch=branch("b", 3.0)),
        ],
        {"x": ["batch", 3], "rate": []},
        constants={"wanted": np.array(8000, INT)},
        dtypes={"rate": onnx.TensorProto.INT64},
    )

    module = lrp.from_onnx(proto, constants={"rate": 16000})

    assert module.input_names == ["x"]
    torch.testing.assert_close(module(torch.ones(2, 3)), torch.full((2, 3), 3.0))


def test_a_length_that_a_file_calls_open_and_fixes_is_fixed() -> None:
    """Tracing writes the example's length into reshapes, and leaves the input's open."""
    file = model(
        [node("Transpose", "x", "t", perm=[1, 0, 2]), node("Reshape", "t to", "r"), node("MatMul", "r w")],
        {"x": ["batch", "length", 4]},
        constants={"to": np.array([9, -1, 2], INT), "w": np.ones((2, 3), np.float32)},
    )

    explainer = lrp.compile(file, target=lambda outputs: outputs.sum((0, 2)))

    assert explainer.inputs[0].shape == ("batch", 9, 4)


@pytest.mark.slow
def test_a_size_inside_that_is_1_in_the_example_is_still_open(tmp_path: Path) -> None:
    """`length // 4` is 1 of a length of 5, and 4 of one of 16: no shape in the file may be what 1 makes of it."""
    weights = {
        "w": np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32),
        "u": np.random.default_rng(2).normal(size=(3, 3, 1)).astype(np.float32),
        "v": np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32),
    }
    nodes = [
        node("Conv", "x w", "c", strides=[4]),
        node("Relu", "c", "d"),
        node("Conv", "d u", "f"),
        node("Relu", "f", "g"),
        node("ReduceMax", "g", "e", axes=[2], keepdims=0),
        node("MatMul", "e v"),
    ]
    proto = model(nodes, {"x": ["n", 2, "length"]}, constants=weights, opset=17)
    explainer = lrp.compile(proto, (torch.randn(2, 2, 5),), target=1)
    x = torch.randn(3, 2, 16)

    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    written = onnx.load(tmp_path / "m.lrp.onnx")
    declared = {value.name: value.type.tensor_type.shape.dim for value in written.graph.value_info}
    written.graph.output.extend(onnx.ValueInfoProto(name=name) for name in declared)
    found = in_onnxruntime(written, {"x": x})

    for value, tensor in zip(written.graph.output, found, strict=True):
        for dim, size in zip(declared.get(value.name, []), tensor.shape, strict=False):
            assert dim.dim_value in (0, size), f"{value.name} is declared {dim.dim_value}, and is {size}"
