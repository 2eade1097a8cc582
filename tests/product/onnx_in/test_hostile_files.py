"""Files that are no sound model: one sentence each, and nothing is read outside their folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.onnx_graphs import model, node

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError, FormatError, InputError, LrpError

W = {"w": np.ones((4, 3), np.float32)}


def cyclic() -> onnx.ModelProto:
    return model([node("Add", "x b", "a", "first"), node("Relu", "a", "b", "second"), node("Neg", "b")], {"x": [2, 3]})


def without_its_weight() -> onnx.ModelProto:
    return model([node("MatMul", "x w", name="dense")], {"x": ["batch", 4]})


def too_old() -> onnx.ModelProto:
    return model([node("MatMul", "x w")], {"x": ["batch", 4]}, constants=W, opset=3)


def too_new() -> onnx.ModelProto:
    return model([node("MatMul", "x w")], {"x": ["batch", 4]}, constants=W, opset=999)


def enormous() -> onnx.ModelProto:
    """A function of two calls of a function of two calls …: 2⁴⁰ nodes in forty lines."""
    functions = [
        helper.make_function(
            "own",
            f"f{k}",
            ["x"],
            ["y"],
            [helper.make_node(f"f{k + 1}", [a], [b], domain="own") for a, b in (("x", "m"), ("m", "y"))],
            [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)],
        )
        for k in range(40)
    ]
    last = helper.make_function("own", "f40", ["x"], ["y"], [node("Relu", "x")], [helper.make_opsetid("", 20)])
    call = helper.make_node("f0", ["x"], ["y"], domain="own")
    return model([call], {"x": [2, 3]}, functions=[*functions, last], domains=["own"])


def endless() -> onnx.ModelProto:
    inner = helper.make_node("f", ["x"], ["y"], domain="own")
    function = helper.make_function("own", "f", ["x"], ["y"], [inner], [helper.make_opsetid("own", 1)])
    return model([inner], {"x": [2, 3]}, functions=[function], domains=["own"])


def too_deep() -> onnx.ModelProto:
    """A function that calls a function that calls a function …"""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    calls = [helper.make_node(f"f{k + 1}", ["x"], ["y"], domain="own") for k in range(2000)]
    functions = [helper.make_function("own", f"f{k}", ["x"], ["y"], [call], opsets) for k, call in enumerate(calls)]
    last = helper.make_function("own", "f2000", ["x"], ["y"], [node("Relu", "x")], opsets)
    call = helper.make_node("f0", ["x"], ["y"], domain="own")
    return model([call], {"x": [2, 3]}, functions=[*functions, last], domains=["own"])


def made_twice() -> onnx.ModelProto:
    return model([node("Relu", "x"), node("Neg", "x")], {"x": [2, 3]})


def of_wrong_types() -> onnx.ModelProto:
    return model([node("Conv", "x w", name="conv")], {"x": [2, 4]}, constants=W)


def with_a_strange_attribute() -> onnx.ModelProto:
    return model([node("Softmax", "x", axes=1)], {"x": [2, 4]})


def with_a_short_weight() -> onnx.ModelProto:
    proto = without_its_weight()
    proto.graph.initializer.append(TensorProto(name="w", dims=[4, 3], data_type=1, raw_data=b"\0" * 8))
    return proto


def of_text() -> onnx.ModelProto:
    return model([node("Identity", "x")], {"x": [2]}, dtypes={"x": TensorProto.STRING, "y": TensorProto.STRING})


def huge_constant() -> onnx.ModelProto:
    """A few bytes that say to make a tensor of 10¹⁵ elements."""
    return model(
        [node("ConstantOfShape", "shape", "c", "huge"), node("Add", "x c")],
        {"x": ["batch", 3]},
        constants={"shape": np.array([10**15], np.int64)},
    )


def reading_itself() -> onnx.ModelProto:
    return model([node("Neg", "y", "y", "alone")], {"x": [2, 3]})


def with_an_input_twice() -> onnx.ModelProto:
    proto = model([node("MatMul", "x w")], {"x": ["batch", 4]}, constants=W)
    proto.graph.input.append(proto.graph.input[0])
    return proto


def without_inputs() -> onnx.ModelProto:
    return model([node("Neg", "w")], {}, constants=W)


def in_training() -> onnx.ModelProto:
    constants = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    return model([node("Dropout", "x ratio training")], {"x": [2, 3]}, constants=constants)


def without_a_value() -> onnx.ModelProto:
    return model([helper.make_node("Constant", [], ["c"]), node("Add", "x c")], {"x": [2, 3]})


def of_two_opsets() -> onnx.ModelProto:
    body = [node("Softmax", "a", "y")]
    function = helper.make_function("own", "f", ["a"], ["y"], body, [helper.make_opsetid("", 11)])
    call = helper.make_node("f", ["x"], ["y"], domain="own")
    return model([call], {"x": [2, 3, 4]}, functions=[function], domains=["own"])


def reading_what_no_round_made() -> onnx.ModelProto:
    """A loop of no rounds collects nothing, not even a shape."""
    values = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("on", 9), ("z", 1))]
    body = helper.make_graph(
        [node("Identity", "on", "going"), node("Neg", "x", "z")], "body", values[:2], [values[1], values[2]]
    )
    body.output[0].name = "going"
    loop = helper.make_node("Loop", ["rounds", ""], ["collected"], body=body)
    return model([loop, node("Neg", "collected")], {"x": [2, 3]}, constants={"rounds": np.array(0, np.int64)})


SENTENCES: list[tuple[Callable[[], onnx.ModelProto], type[LrpError], str]] = [
    (cyclic, FormatError, "'first' .Add. and Node 'second' .Relu. need one another"),
    (without_its_weight, FormatError, "'dense' .MatMul. of The model reads 'w', which no node makes"),
    (too_old, FormatError, "is of opset 3"),
    (too_new, FormatError, "is of opset 999"),
    (enormous, FormatError, "is not traced"),
    (endless, FormatError, "calls itself"),
    (too_deep, FormatError, "call one another too deeply"),
    (made_twice, FormatError, "'y' of The model is made twice"),
    (of_wrong_types, CaptureError, "'conv' .Conv. cannot be run"),
    (with_a_strange_attribute, FormatError, "has the attribute 'axes', which it cannot have .did you mean 'axis'"),
    (with_a_short_weight, FormatError, "'w' does not hold as many values"),
    (of_text, CaptureError, "text, maps or labels alone"),
    (huge_constant, LrpError, "memory|huge"),
    (reading_itself, FormatError, "'alone' .Neg. reads what it makes"),
    (with_an_input_twice, FormatError, "Input 'x' of The model is there twice"),
    (without_inputs, FormatError, "takes no inputs"),
    (in_training, CaptureError, "training mode draws random numbers"),
    (without_a_value, FormatError, "A Constant holds no value"),
    (of_two_opsets, FormatError, "Function 'f' of The model is written for another opset"),
    (reading_what_no_round_made, CaptureError, "'collected' is read, and the node whose result it is makes none"),
]


@pytest.mark.parametrize(("build", "kind", "words"), SENTENCES, ids=[build.__name__ for build, _, _ in SENTENCES])
def test_a_file_that_is_not_sound_gets_one_sentence(
    build: Callable[[], onnx.ModelProto], kind: type[LrpError], words: str
) -> None:
    with pytest.raises(kind, match=words) as refused:
        lrp.compile(build())

    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_operators_that_are_not_known_are_named_all_at_once() -> None:
    proto = model(
        [
            node("RandomNormalLike", "x", "a"),
            node("RandomNormalLike", "a", "b"),
            helper.make_node("TreeThing", ["b"], ["c"], domain="strange"),
            node("Relo", "c"),
        ],
        {"x": [2, 3]},
        domains=["strange"],
    )

    with pytest.raises(CaptureError) as refused:
        lrp.from_onnx(proto)

    text = str(refused.value)
    assert "RandomNormalLike (2 nodes) draws random numbers" in text
    assert "TreeThing of strange is no operator that is known here" in text
    assert "Relo is no operator that is known here (did you mean 'Relu'?)" in text


def test_what_is_said_of_several_operators_is_said_once() -> None:
    """A whole net in one processor's layout is one sentence."""
    nchwc = "com.microsoft.nchwc"
    nodes = [
        helper.make_node("ReorderInput", ["x"], ["a"], domain=nchwc),
        helper.make_node("Conv", ["a", "w"], ["b"], domain=nchwc),
        helper.make_node("Conv", ["b", "w"], ["c"], domain=nchwc),
        helper.make_node("ReorderOutput", ["c"], ["y"], domain=nchwc),
    ]

    with pytest.raises(CaptureError) as refused:
        lrp.from_onnx(model(nodes, {"x": [2, 4]}, constants=W, domains=[nchwc]))

    text = str(refused.value)
    assert "3 operators of The model" in text
    assert f"each of ReorderInput, Conv (2 nodes) and ReorderOutput of {nchwc} belongs to a layout" in text
    assert text.count("ORT_ENABLE_EXTENDED") == 1


def test_an_operator_that_no_output_needs_is_not_looked_at() -> None:
    proto = model([node("Relu", "x"), node("NonMaxSuppression", "x x", "unused")], {"x": [2, 3]})

    assert lrp.from_onnx(proto)(torch.ones(2, 3)).shape == (2, 3)


def sparse(places: np.ndarray, shape: list[int]) -> onnx.ModelProto:
    """A model whose weight has two values at these places."""
    weight = onnx.SparseTensorProto(dims=shape)
    weight.values.CopyFrom(numpy_helper.from_array(np.array([2, 3], np.float32), "w"))
    weight.indices.CopyFrom(numpy_helper.from_array(places, "places"))
    proto = model([node("MatMul", "x w")], {"x": ["batch", 4]})
    proto.graph.sparse_initializer.append(weight)
    return proto


@pytest.mark.parametrize(
    ("places", "shape", "words"),
    [
        ([0, 70], [4, 3], "outside the shape"),
        ([-1, 3], [4, 3], "outside the shape"),
        ([[0, 0], [4, 0]], [4, 3], "outside the shape"),
        ([0], [4, 3], "not those of its values"),
        ([0.0, 1.0], [4, 3], "not those of its values"),
        ([[0], [1]], [4, 3], "not those of its values"),
        ([0, 1], [-4, 3], "has the shape"),
        ([0, 1], [10**9, 10**9], "too many to be written out"),
    ],
)
def test_sparse_weights_that_are_not_sound_get_a_sentence(places: list[Any], shape: list[int], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        lrp.from_onnx(sparse(np.array(places), shape))


def test_sparse_weights_are_written_out() -> None:
    for places in ([0, 7], [[0, 0], [2, 1]]):
        found = lrp.from_onnx(sparse(np.array(places), [4, 3]))(torch.eye(4))
        torch.testing.assert_close(found, torch.tensor([[2.0, 0, 0], [0, 0, 0], [0, 3, 0], [0, 0, 0]]))


def test_a_weight_of_negative_size_gets_a_sentence() -> None:
    proto = without_its_weight()
    proto.graph.initializer.append(TensorProto(name="w", dims=[-4, 3], data_type=1, raw_data=b"\0" * 48))

    with pytest.raises(FormatError, match=r"'w' has the shape \[-4, 3\]"):
        lrp.from_onnx(proto)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes of a name")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name, read in (("m.onnx", lrp.compile), ("m.lrp.pt2", lrp.load), ("m.pt2", lrp.compile)):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FormatError, match="is no regular file"):
            read(tmp_path / name)


def written(folder: Path, location: str, **said: str) -> Path:
    """A file whose weight lies at this place."""
    proto = without_its_weight()
    weight = TensorProto(name="w", dims=[4, 3], data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **said}.items():
        weight.external_data.add(key=key, value=value)
    proto.graph.initializer.append(weight)
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_file_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "own", "w.bin", offset="4")
    (tmp_path / "own" / "w.bin").write_bytes(np.arange(13, dtype=np.float32).tobytes())

    module = lrp.from_onnx(path)

    torch.testing.assert_close(module(torch.ones(1, 4))[0], torch.tensor([22.0, 26.0, 30.0]))
    assert lrp.compile(path)(torch.ones(3, 4)).output.shape == (3, 3)


@pytest.mark.parametrize("location", ["../secret.bin", "{folder}/secret.bin", "link.bin", "inside/secret.bin", ""])
def test_nothing_is_read_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(12, np.float32).tobytes())
    path = written(tmp_path / "own", location.format(folder=tmp_path))
    os.symlink(tmp_path / "secret.bin", tmp_path / "own" / "link.bin")
    os.symlink(tmp_path, tmp_path / "own" / "inside")

    with pytest.raises(FormatError, match="outside the model's own folder or behind a link, where nothing is read"):
        lrp.from_onnx(path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"offset": "-4"}, "no number of bytes"),
        ({"offset": "²"}, "no number of bytes"),
        ({"offset": "1000000"}, "too short"),
        ({"length": "8"}, "too short"),
    ],
)
def test_external_data_that_do_not_fit_get_a_sentence(tmp_path: Path, said: dict[str, str], words: str) -> None:
    path = written(tmp_path / "own", "w.bin", **said)
    (tmp_path / "own" / "w.bin").write_bytes(np.ones(12, np.float32).tobytes())

    with pytest.raises(FormatError, match=words):
        lrp.from_onnx(path)


def test_external_data_that_are_not_there_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file beside the model"):
        lrp.from_onnx(written(tmp_path / "own", "w.bin"))


def test_other_files_get_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")

    with pytest.raises(FormatError, match="is not an ONNX file"):
        lrp.compile(tmp_path / "text.onnx")
    with pytest.raises(FormatError, match="is a folder"):
        lrp.from_onnx(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        lrp.compile(tmp_path / "absent.onnx")


def test_an_explainer_is_no_model(tmp_path: Path) -> None:
    proto = model([node("MatMul", "x w")], {"x": ["batch", 4]}, constants=W)
    lrp.compile(proto).to_onnx(tmp_path / "m.lrp.onnx")

    with pytest.raises(FormatError, match="is an explainer that was compiled already"):
        lrp.compile(tmp_path / "m.lrp.onnx")


def test_example_inputs_that_do_not_fit_get_a_sentence() -> None:
    proto = model([node("MatMul", "x w")], {"x": ["batch", 4]}, constants=W)

    with pytest.raises(InputError, match="The file takes 'x', and not 'xx'"):
        lrp.compile(proto, kwargs={"xx": torch.ones(2, 4)})
    with pytest.raises(InputError, match="does not say how many dims"):
        lrp.compile(model([node("MatMul", "x w")], {"x": None}, constants=W))
    with pytest.raises(InputError, match="no input of The model"):
        lrp.from_onnx(proto, constants={"rate": 3})
