"""An explainer behind the protocol: what runs together gives what it gives alone, and what may not run together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.data_sets import of_rows, rows
from support.hand_made import doubler, entry, lookup, metadata_of, model_bytes, x_of
from support.served import sentence

from lrp_compiler.base.errors import InputError
from lrp_compiler.runtime import OnnxExplainer
from lrp_compiler.serving.model import Model, model_name


def opened(path: Path, content: bytes, **options: Any) -> Model:
    path.write_bytes(content)
    return Model(path, **options)


def scaled_by_the_batch() -> bytes:
    """y = x / max |x| of the whole batch, relevance.x = y: as dynamic quantisation takes one scale for all rows."""
    x, y = entry("x", ["batch", 3]), entry("y", ["batch", 3])
    relevance = entry("relevance.x", ["batch", 3]) | {"input": "x"}
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["most"], keepdims=0),
        helper.make_node("Div", ["x", "most"], ["y"]),
        helper.make_node("Identity", ["y"], ["relevance.x"]),
    ]
    about = metadata_of([x], [y], [relevance]) | {"sizes": {"batch": 4}}
    return model_bytes(nodes, [x], [y, relevance], about)


def test_requests_that_run_together_get_what_they_get_alone(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx", target="index")
    asked = [{"input": rows(1 + seed % 3, seed), "target": np.full(1 + seed % 3, seed % 3)} for seed in range(8)]
    with Model(explainer) as model, OnnxExplainer(explainer) as alone:
        assert model.grouped
        work = [model.work(inputs, None) for inputs in asked]
        assert len({one.kind for one in work}) == 1
        found = model.run(work)
        for inputs, results in zip(asked, found, strict=True):
            by_itself = alone(inputs["input"], target=inputs["target"])
            for name, wanted in (("output", by_itself.output), ("relevance.input", by_itself.relevance["input"])):
                # Sums of at most six products, in another order: a few roundings of float32.
                np.testing.assert_allclose(results[name], wanted, rtol=0, atol=8 * 6e-8 * np.abs(wanted).max())


def test_only_what_is_wanted_is_calculated_and_in_that_order(tmp_path: Path) -> None:
    with opened(tmp_path / "m.onnx", doubler(), check=False) as model:
        work = [model.work({"x": x_of(2)}, names) for names in (["y"], None, ["relevance.x", "y"])]

        assert [list(model.run([one])[0]) for one in work] == [["y"], ["y", "relevance.x"], ["relevance.x", "y"]]
        assert len({one.kind for one in work}) == 3


def test_texts_of_other_lengths_do_not_run_together(tmp_path: Path) -> None:
    with opened(tmp_path / "m.onnx", lookup()) as model:
        work = [
            model.work({"ids": np.ones((size, length), np.int64), "mask": np.ones((size, length), np.float32)}, None)
            for size, length in ((1, 4), (2, 4), (1, 5))
        ]

        assert work[0].kind == work[1].kind != work[2].kind
        assert [one.rows for one in work] == [1, 2, 1]


@pytest.mark.parametrize("content", [scaled_by_the_batch(), doubler([2, 3])], ids=["one scale", "fixed batch"])
def test_rows_that_depend_on_each_other_run_alone(content: bytes, tmp_path: Path) -> None:
    with opened(tmp_path / "m.onnx", content) as model:
        assert not model.grouped
        first, second = (model.work({"x": x_of(2)}, None) for _ in range(2))
        assert first.kind != second.kind


def test_masks_may_be_left_out(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx", masks="2")
    x, mask = rows(2), np.array([[1, 0, 1, 0, 1], [0, 1, 1, 1, 1]], np.float32)
    with Model(explainer) as model, OnnxExplainer(explainer) as alone:
        taken = {entry["name"]: entry.get("parameters") for entry in model.described()["inputs"]}
        assert taken == {"input": None, "mask.2": {"optional": True}}
        bare, masked = model.work({"input": x}, None), model.work({"input": x, "mask.2": mask}, None)
        assert bare.kind != masked.kind
        for work, masks in ((bare, None), (masked, {"2": mask})):
            wanted = alone(x, masks=masks).relevance["input"]
            np.testing.assert_array_equal(model.run([work])[0]["relevance.input"], wanted)


def test_the_metadata_says_what_is_open(tmp_path: Path) -> None:
    with opened(tmp_path / "reviews.lrp.onnx", lookup()) as model:
        assert model.described() == {
            "name": "reviews",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [
                {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
                {"name": "mask", "datatype": "FP32", "shape": [-1, -1]},
            ],
            "outputs": [
                {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
                {"name": "total", "datatype": "FP32", "shape": [-1]},
                {"name": "relevance.ids", "datatype": "FP32", "shape": [-1, -1]},
            ],
        }


X = x_of(2)
NAN = np.full((1, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ({}, None, "'x' is missing"),
        ({"X": X}, None, "no input 'X' .did you mean 'x'"),
        ({"x": X, "masks": X}, None, "no input 'masks'"),
        ({"x": X[0]}, None, "the batch dimension is missing"),
        ({"x": X[:, :2]}, None, "dimension 1 must be 3, not 2"),
        ({"x": X[:0]}, None, "is empty"),
        ({"x": X.astype(np.float64)}, None, "narrowing can lose digits"),
        ({"x": X.astype(bool)}, None, "has dtype bool"),
        ({"x": X}, ["z"], "no output 'z'"),
        ({"x": NAN}, None, "holds NaN"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    inputs: dict[str, np.ndarray], outputs: list[str] | None, said: str, tmp_path: Path
) -> None:
    with (
        opened(tmp_path / "m.onnx", doubler(), check_nan=True) as model,
        pytest.raises(InputError, match=said) as error,
    ):
        model.work(inputs, outputs)

    sentence(str(error.value))


def test_nan_runs_unless_it_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "m.onnx", doubler()) as model:
        assert np.isnan(model.run([model.work({"x": NAN}, None)])[0]["y"]).all()


@pytest.mark.parametrize(
    ("file", "name"),
    [("image.lrp.onnx", "image"), ("a/b-c_1.2.onnx", "b-c_1.2"), ("ein Bild.lrp.onnx", "ein_Bild"), ("ü.onnx", "_")],
)
def test_a_model_is_called_after_its_file(file: str, name: str) -> None:
    assert model_name(file) == name
