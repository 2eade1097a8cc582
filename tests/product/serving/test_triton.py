"""A model repository, read by Triton's own schema."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support.data_sets import of_rows
from support.hand_made import chooser, doubler, lookup, x_of

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.seal import Seal, file_digest, seal
from lrp_compiler.cli import main
from lrp_compiler.runtime import OnnxExplainer
from lrp_compiler.serving import triton_repository


def config_of(folder: Path) -> Any:
    """`config.pbtxt`, as Triton reads it; of the client's gRPC half its schema alone, which needs no gRPC."""
    client = pytest.importorskip("tritonclient")
    text_format = pytest.importorskip("google.protobuf.text_format")
    place = Path(client.__path__[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    assert spec is not None
    assert spec.loader is not None
    schema = sys.modules.get(spec.name)
    if schema is None:
        schema = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(schema)
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def tensors(entries: Any) -> list[tuple[str, str, list[int], list[int] | None]]:
    """Name, type, dims, and what they are reshaped to."""
    types = sys.modules["model_config_pb2"].DataType
    return [
        (
            one.name,
            types.Name(one.data_type),
            list(one.dims),
            list(one.reshape.shape) if one.HasField("reshape") else None,
        )
        for one in entries
    ]


def test_where_rows_come_first_triton_batches(tmp_path: Path) -> None:
    (tmp_path / "some-class.lrp.onnx").write_bytes(chooser())

    folder = triton_repository(tmp_path / "some-class.lrp.onnx", tmp_path / "repository", rows=16)

    assert folder == tmp_path / "repository" / "some-class"
    config = config_of(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("some-class", "onnxruntime", 16)
    assert config.HasField("dynamic_batching")
    assert tensors(config.input) == [("x", "TYPE_FP32", [3], None), ("target", "TYPE_INT64", [1], [])]
    assert tensors(config.output) == [("y", "TYPE_FP32", [3], None), ("relevance.x", "TYPE_FP32", [3], None)]


@pytest.mark.parametrize(
    ("content", "inputs"),
    [
        (doubler([2, 3]), [("x", "TYPE_FP32", [2, 3], None)]),
        (doubler(["n", "w"]), [("x", "TYPE_FP32", [-1, -1], None)]),
    ],
    ids=["fixed", "no batch"],
)
def test_where_there_is_no_batch_all_dims_are_given(content: bytes, inputs: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)

    config = config_of(triton_repository(tmp_path / "m.onnx", tmp_path / "r"))

    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert tensors(config.input) == inputs


def test_open_dims_stay_open(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(lookup())

    config = config_of(triton_repository(tmp_path / "m.onnx", tmp_path / "r"))

    assert tensors(config.input) == [("ids", "TYPE_INT64", [-1], None), ("mask", "TYPE_FP32", [-1], None)]
    assert tensors(config.output)[1] == ("total", "TYPE_FP32", [1], [])


def test_what_the_repository_names_is_what_the_file_in_it_takes_and_gives(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx", masks="2")
    folder = triton_repository(explainer, tmp_path / "r")
    config = config_of(folder)
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    ranks = {value.name: len(value.shape) for value in (*session.get_inputs(), *session.get_outputs())}

    assert [one.name for one in config.input] == [value.name for value in session.get_inputs()]
    assert [one.name for one in config.output] == [value.name for value in session.get_outputs()]
    for name, _, dims, reshaped in tensors((*config.input, *config.output)):
        assert 1 + len(dims if reshaped is None else reshaped) == ranks[name]


def test_weights_beside_the_file_come_with_it(tmp_path: Path) -> None:
    model = onnx.load_from_string(doubler())
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32(2), "two"))
    del model.metadata_props[1:]  # the seal
    path = tmp_path / "m.lrp.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    seal(path, Seal({"w.data": file_digest(tmp_path / "w.data")}))

    folder = triton_repository(tmp_path / "m.lrp.onnx", tmp_path / "r")

    assert len(list((folder / "1").iterdir())) == 2
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as one, OnnxExplainer(folder / "1" / "model.onnx") as other:
        np.testing.assert_array_equal(one(x_of(2)).relevance["x"], other(x_of(2)).relevance["x"])


def test_the_command_replaces_its_own_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("m.onnx", doubler()), ("other.onnx", chooser())):
        (tmp_path / name).write_bytes(content)
    command = ["triton", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "r"), "--name", "mine"]
    assert main(command) == 0
    assert main(["triton", str(tmp_path / "other.onnx"), *command[2:]]) == 0
    assert (tmp_path / "r" / "mine" / "1" / "model.onnx").read_bytes() == chooser()
    config_of(tmp_path / "r" / "mine")
    (tmp_path / "r" / "mine" / "config.pbtxt").write_text("name: 'mine'")
    capsys.readouterr()

    assert main(command) == 1

    assert "is none that this command made: choose another name or folder." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["..", "a/b", "", "ein Name"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(doubler())
    with pytest.raises(InputError, match="name is letters"):
        triton_repository(tmp_path / "m.onnx", tmp_path / "r", name=name)
    assert not (tmp_path / "r").exists()
