"""Whatever the rows come in: what is written of them is what `OnnxExplainer` says of the same arrays."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import errors, of_rows, rows, tensors, written

from lrp_compiler.data import explain
from lrp_compiler.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

X = rows(37)


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_rows(tmp_path_factory.mktemp("explainer") / "m.lrp.onnx")


def npy(folder: Path) -> Path:
    np.save(folder / "data.npy", X)
    return folder / "data.npy"


def folder_of_npy(folder: Path) -> Path:
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "input.npy", X.astype(">f8"))
    np.save(folder / "arrays" / "id.npy", np.arange(37))
    return folder / "arrays"


def parquet_of_tensors(folder: Path) -> Path:
    table = pa.table({"input": pa.FixedShapeTensorArray.from_numpy_ndarray(X)})
    pq.write_table(table, folder / "data.parquet", row_group_size=5)
    return folder / "data.parquet"


def parquet_of_nested_lists(folder: Path) -> Path:
    pq.write_table(pa.table({"input": pa.array(X.tolist())}), folder / "data.parquet")
    return folder / "data.parquet"


def parquet_of_flat_lists(folder: Path) -> Path:
    table = pa.table({"x": pa.array(list(X.reshape(37, 6))), "other": np.arange(37)})
    (folder / "files").mkdir()
    pq.write_table(table.slice(0, 20), folder / "files" / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(20), folder / "files" / "b.parquet")
    (folder / "files" / "_SUCCESS").touch()
    return folder / "files"


def json_lines(folder: Path) -> Path:
    lines = [json.dumps({"input": x.tolist(), "label": 1}) for x in X]
    (folder / "data.jsonl").write_text("\n\n".join(lines))
    return folder / "data.jsonl"


KINDS = [npy, folder_of_npy, parquet_of_tensors, parquet_of_nested_lists, parquet_of_flat_lists, json_lines]


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_data_give_what_the_runtime_does(
    kind: Callable[[Path], Path], explainer: Path, tmp_path: Path
) -> None:
    data = kind(tmp_path)
    columns = {"input": "x"} if kind is parquet_of_flat_lists else {}

    done = explain(explainer, data, tmp_path / "out", columns=columns, batch_size=4, shard_rows=8)

    with OnnxExplainer(explainer) as opened:
        expected = opened(X)
    table = written(tmp_path / "out")
    assert (done.rows, done.explained, done.bad, done.shards) == (37, 37, 0, 5)
    assert table["id"].to_pylist() == list(range(37))
    # A batch of another size takes other kernels: sums of six products, rounded in another order.
    np.testing.assert_allclose(tensors(table, "relevance.input"), expected.relevance["input"], rtol=1e-5, atol=1e-6)
    cases = expected.explained()
    assert table["prediction"].to_pylist() == table["target"].to_pylist() == [case.target for case in cases]
    np.testing.assert_allclose(table["logit"].to_numpy(), [case.logit for case in cases], rtol=1e-5)
    np.testing.assert_allclose(table["sum.input"].to_numpy(), [case.sum for case in cases], rtol=1e-5, atol=1e-6)
    assert table["absorbed"].null_count == 37


def test_an_id_is_the_column_that_is_named(explainer: Path, tmp_path: Path) -> None:
    table = pa.table({"input": pa.FixedShapeTensorArray.from_numpy_ndarray(X), "key": [f"k{n}" for n in range(37)]})
    pq.write_table(table, tmp_path / "data.parquet")

    explain(explainer, tmp_path / "data.parquet", tmp_path / "out", id="key", where="key in ('k3', 'k30')")

    assert written(tmp_path / "out")["id"].to_pylist() == ["k3", "k30"]


def test_a_limit_is_of_the_first_rows(explainer: Path, tmp_path: Path) -> None:
    done = explain(explainer, npy(tmp_path), tmp_path / "out", limit=9, shard_rows=4)

    assert (done.rows, done.shards) == (9, 3)
    assert written(tmp_path / "out")["id"].to_pylist() == list(range(9))


def test_every_stretch_of_parquet_is_read_as_it_stands(tmp_path: Path) -> None:
    from lrp_compiler.data.parquet import Parquet

    for number, (first, last) in enumerate([(0, 30), (30, 31), (31, 100)]):
        pq.write_table(pa.table({"n": np.arange(first, last)}), tmp_path / f"{number}.parquet", row_group_size=7)
    source = Parquet(sorted(tmp_path.glob("*.parquet")), None)

    for start, stop in [(0, 10), (10, 33), (90, 100), (3, 4), (29, 61), (61, 62), (80, 81), (0, 100)]:
        windows = list(source.read(start, stop, 8, ["n"]))
        assert [n for window in windows for n in window.columns["n"].to_pylist()] == list(range(start, stop))
        assert [n for window in windows for n in window.numbers] == list(range(start, stop))
        assert max(map(len, windows)) <= 8


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda folder: folder / "nothing.npy", {}, "There is no file or folder"),
        (lambda folder: folder, {}, "is no data set"),
        (parquet_of_tensors, {"columns": {"input": "y"}}, "has no column 'y'"),
        (parquet_of_tensors, {"columns": {"z": "input"}}, "no input 'z' for a column"),
        (parquet_of_tensors, {"id": "key"}, "There is no column 'key' for the ids"),
        (parquet_of_tensors, {"where": "label == 3"}, "where names a column 'label'"),
        (parquet_of_tensors, {"where": "__import__('os')"}, "is no condition"),
        (npy, {"target": 1}, "compiled for 'argmax'"),
        (npy, {"tokenizer": __file__}, "takes no text"),
        (npy, {"limit": 0}, "limit is a whole number from 1 up"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(
    make: Callable[[Path], Path], options: dict[str, object], said: str, explainer: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    data = make(tmp_path) if make in KINDS else make(tmp_path / "empty")

    with pytest.raises((InputError, FileNotFoundError), match=said):
        explain(explainer, data, tmp_path / "out", **options)  # type: ignore[arg-type]


def test_an_array_of_another_shape_ends_the_job_at_once(explainer: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 3, 2), np.float32))

    with pytest.raises(InputError, match=r"has shape \[5, 3, 2\]"):
        explain(explainer, tmp_path / "x.npy", tmp_path / "out")

    assert errors(tmp_path / "out") == {}
