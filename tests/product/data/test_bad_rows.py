"""A row that cannot be explained takes no other with it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import errors, of_rows, rows, written

from lrp_compiler.data import explain
from lrp_compiler.data.engine import Explain
from lrp_compiler.data.window import Window
from lrp_compiler.errors import InputError, LrpError


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_rows(tmp_path_factory.mktemp("explainer") / "m.lrp.onnx")


@pytest.fixture(scope="module")
def by_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_rows(tmp_path_factory.mktemp("explainer") / "m.lrp.onnx", target="index")


def test_nan_overflow_and_a_class_that_is_not_there(by_target: Path, tmp_path: Path) -> None:
    x = rows(40)
    x[3, 1, 1] = np.nan
    x[20, 0] = np.inf
    target = np.arange(40) % 3
    target[11] = 7
    table = {"input": pa.FixedShapeTensorArray.from_numpy_ndarray(x), "target": target}
    pq.write_table(pa.table(table), tmp_path / "data.parquet")

    done = explain(by_target, tmp_path / "data.parquet", tmp_path / "out", batch_size=16)

    said = errors(tmp_path / "out")
    assert sorted(said) == [3, 11, 20]
    assert said[3] == "Input 'input' holds NaN."
    assert said[11] == "Target 7 is out of range: the model has 3 classes, 0 to 2."
    assert "not finite" in said[20]
    good = np.setdiff1d(np.arange(40), list(said))
    table_of_good = written(tmp_path / "out")
    assert table_of_good["id"].to_pylist() == good.tolist()
    assert table_of_good["target"].to_pylist() == target[good].tolist()
    assert (done.explained, done.bad, done.rows) == (37, 3, 40)


def test_rows_of_a_wrong_shape_and_lines_that_are_no_json(explainer: Path, tmp_path: Path) -> None:
    x = rows(6).tolist()
    given = [{"id": f"r{n}", "input": x[n]} for n in range(6)]
    given[1]["input"] = [[1.0, 2.0], [3.0, 4.0]]
    given[2]["input"] = [[1.0, 2.0, "three"], [3.0, 4.0, 5.0]]
    del given[3]["input"]
    lines = [json.dumps(row) for row in given]
    lines[4] = lines[4][:-3]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))

    explain(explainer, tmp_path / "data.jsonl", tmp_path / "out")

    assert written(tmp_path / "out")["id"].to_pylist() == ["r0", "r5"]
    said = errors(tmp_path / "out")
    assert said[1] == "Input 'input' has shape [2, 2], but [2, 3] is wanted: dimension 1 must be 3, not 2."
    assert said[2].startswith("Input 'input' ")
    assert said[3] == "Input 'input' is missing."
    assert said[4].startswith("Line 5 is no JSON")


def test_fail_fast_ends_at_the_first_and_can_be_gone_on_with(explainer: Path, tmp_path: Path) -> None:
    x = rows(20)
    x[13, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", x)

    with pytest.raises(InputError, match=r"Row 13 cannot be explained: Input 'input' holds NaN\."):
        explain(explainer, tmp_path / "x.npy", tmp_path / "out", bad="raise", shard_rows=4, batch_size=4)
    assert written(tmp_path / "out")["id"].to_pylist() == list(range(12))
    done = explain(explainer, tmp_path / "x.npy", tmp_path / "out", batch_size=4)

    assert (done.resumed, done.explained, done.bad) == (12, 19, 1)


def test_a_job_without_a_single_sound_row_says_why(explainer: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 2, 3), np.nan, np.float32))

    with pytest.raises(LrpError, match=r"None of the 3 rows could be explained: Input 'input' holds NaN\."):
        explain(explainer, tmp_path / "x.npy", tmp_path / "out")


def test_what_fails_in_the_runtime_is_found_by_halves(explainer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that fails on every batch with a certain row, as onnxruntime would on a poisoned one."""
    engine = Explain(explainer, batch_size=32)
    x = rows(50)
    sound, runs = engine._explainer, []

    def poisoned(*arrays: np.ndarray) -> object:
        runs.append(len(arrays[0]))
        if (arrays[0] == x[17]).all((1, 2)).any():
            raise LrpError("The explainer failed on these inputs in onnxruntime: poisoned.")
        return sound(*arrays)

    monkeypatch.setattr(engine, "_explainer", poisoned)
    found, said = engine.rows(Window({"input": x}, np.arange(50), np.arange(50)))

    assert said == {17: "The explainer failed on these inputs in onnxruntime: poisoned."}
    assert len(runs) == 2 * 5 + 2  # two batches, and five halvings of the first
    np.testing.assert_array_equal(np.isnan(found["sum.input"]), np.arange(50) == 17)
    np.testing.assert_allclose(
        np.delete(found["relevance.input"], 17, 0),
        np.delete(sound(x).relevance["input"], 17, 0),
        rtol=1e-5,
        atol=1e-6,  # other batch sizes, other kernels
    )
