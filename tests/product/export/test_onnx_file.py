"""Weights go past protobuf into the file, or into files beside it: what is read is what was to be written."""

import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

from lrp_compiler.base.seal import file_digest
from lrp_compiler.export import onnx_file
from lrp_compiler.export.onnx_file import put_beside, write_model


def model(*weights: np.ndarray) -> Any:
    """x times the sum of all that is in the weights."""
    x = onnx_ir.Value(name="x", shape=onnx_ir.Shape(["n"]), type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT))
    tensors = [onnx_ir.tensor(array, name=f"w{number}") for number, array in enumerate(weights)]
    values = [onnx_ir.Value(name=tensor.name, shape=tensor.shape, const_value=tensor) for tensor in tensors]
    nodes, last = [], x
    for value, tensor in zip(values, tensors, strict=True):
        value.type = onnx_ir.TensorType(tensor.dtype)
        cast = onnx_ir.node("Cast", [value], {"to": onnx_ir.DataType.FLOAT})
        total = onnx_ir.node("ReduceSum", [cast.outputs[0]], {"keepdims": 0})
        nodes += [cast, total, onnx_ir.node("Mul", [last, total.outputs[0]])]
        last = nodes[-1].outputs[0]
    last.name, last.shape, last.type = "y", x.shape, x.type
    graph = onnx_ir.Graph([x], [last], nodes=nodes, initializers=values, opset_imports={"": 20}, name="g")
    made = onnx_ir.Model(graph, ir_version=10, producer_name="p")
    made.metadata_props["key"] = "value"
    return made


@pytest.fixture
def weights() -> list[np.ndarray]:
    """Of several dtypes; the second and the last are small, one is a transpose."""
    draw = np.random.default_rng(0)
    return [
        draw.standard_normal((40, 30)).astype(np.float32).T,
        np.array([0.5], np.float32),
        draw.standard_normal((64, 8)).astype(np.float16),
        draw.integers(-3, 4, (50, 20)).astype(np.int8),
        draw.standard_normal((20, 20)),
        np.array(3, np.int64),
    ]


@pytest.mark.parametrize("streamed", [1, 500, 1 << 20])
def test_a_file_says_what_protobuf_would_have_written(
    streamed: int, weights: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "STREAMED", streamed)
    made = model(*weights)

    write_model(made, tmp_path / "m.onnx")

    onnx_ir.save(made, tmp_path / "plain.onnx")
    assert onnx.load(tmp_path / "m.onnx") == onnx.load(tmp_path / "plain.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    x = np.array([1.0, 2.0], np.float32)
    found, expected = (
        onnxruntime.InferenceSession(tmp_path / name).run(None, {"x": x})[0] for name in ("m.onnx", "plain.onnx")
    )
    assert (found == expected).all()


def test_numbers_of_four_bits_stay_two_in_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "STREAMED", 1)
    made = model(np.arange(-7, 8).astype(ml_dtypes.int4))

    write_model(made, tmp_path / "m.onnx")

    onnx_ir.save(made, tmp_path / "plain.onnx")
    assert onnx.load(tmp_path / "m.onnx") == onnx.load(tmp_path / "plain.onnx")


def test_weights_are_not_held_a_second_time(tmp_path: Path) -> None:
    made = model(*(np.ones((1024, 1024), np.float32) for _ in range(8)))

    tracemalloc.start()
    write_model(made, tmp_path / "m.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (tmp_path / "m.onnx").stat().st_size > 8 << 22
    assert peak < 1 << 20


def test_files_beside_it_have_so_many_bytes_at_most_and_are_named_after_them(
    weights: list[np.ndarray], tmp_path: Path
) -> None:
    made = model(*weights)
    expected = onnx_ir.to_proto(made)
    path = tmp_path / "m.onnx"

    written = put_beside(made, path, 5000)
    write_model(made, path)

    assert written == {name: file_digest(tmp_path / name) for name in written}
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["m.onnx", *written])
    assert len(written) == 3  # 4,800 bytes; 1,024 and 1,000; 3,200
    assert all((tmp_path / name).stat().st_size <= 5000 for name in written)
    for one, other in zip(onnx.load(path).graph.initializer, expected.graph.initializer, strict=True):
        assert one.name == other.name
        assert (onnx.numpy_helper.to_array(one) == onnx.numpy_helper.to_array(other)).all()
    assert put_beside(model(*weights), tmp_path / "m.onnx", 5000) == written
