"""The class by itself, as other engines call it: what comes in goes out, row for row."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.data_sets import of_rows, of_texts, rows

from lrp_compiler.data import Explain, Preparation
from lrp_compiler.runtime import OnnxExplainer

X = rows(10)
X[4, 0, 0] = np.nan
GOOD = np.delete(np.arange(10), 4)


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_rows(tmp_path_factory.mktemp("explainer") / "m.lrp.onnx")


@pytest.fixture(scope="module")
def expected(explainer: Path) -> np.ndarray:
    with OnnxExplainer(explainer) as opened:
        relevance: np.ndarray = opened(X[GOOD]).relevance["input"]
    return relevance


def test_a_dict_of_arrays(explainer: Path, expected: np.ndarray) -> None:
    found = Explain(explainer)({"id": np.arange(10) * 2, "input": X})

    assert found["id"].tolist() == list(range(0, 20, 2))
    assert found["error"].tolist() == ["Input 'input' holds NaN." if row == 4 else "" for row in range(10)]
    np.testing.assert_allclose(found["relevance.input"][GOOD], expected, rtol=1e-5, atol=1e-6)  # other batches
    assert np.isnan(found["relevance.input"][4]).all()
    assert found["prediction"][4] == -1


@pytest.mark.parametrize("kind", [pa.RecordBatch, pa.Table])
def test_arrow(kind: type, explainer: Path, expected: np.ndarray) -> None:
    batch = pa.record_batch({"id": list("abcdefghij"), "input": pa.FixedShapeTensorArray.from_numpy_ndarray(X)})
    given = batch if kind is pa.RecordBatch else pa.Table.from_batches([batch.slice(0, 3), batch.slice(3)])

    found = Explain(explainer)(given)

    assert type(found) is kind
    table = pa.table(found)
    assert table["id"].to_pylist() == list("abcdefghij")
    assert table["error"].to_pylist()[4] == "Input 'input' holds NaN."
    assert table["logit"].null_count == table["relevance.input"].null_count == 1
    good = table.filter(pa.array(table["error"].to_numpy() == ""))["relevance.input"].combine_chunks()
    np.testing.assert_allclose(good.to_numpy_ndarray(), expected, rtol=1e-5, atol=1e-6)


def test_a_data_frame(explainer: Path, expected: np.ndarray) -> None:
    pd = pytest.importorskip("pandas")  # which Dask brings
    frame = pd.DataFrame({"input": list(X.reshape(10, 6))})

    found = Explain(explainer)(frame)

    assert isinstance(found, pd.DataFrame)
    relevance = np.stack(found["relevance.input"][GOOD]).reshape(expected.shape)
    np.testing.assert_allclose(relevance, expected, rtol=1e-5, atol=1e-6)


def test_batch_after_batch_of_a_pickled_one(explainer: Path, expected: np.ndarray) -> None:
    batch = pa.record_batch({"input": pa.FixedShapeTensorArray.from_numpy_ndarray(X)})
    copy = pickle.loads(pickle.dumps(Explain(explainer, threads=1)))

    found = pa.Table.from_batches(copy.each(iter([batch.slice(0, 4), batch.slice(5)])))

    relevance = found["relevance.input"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_allclose(relevance, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "targets", "shape"),
    [(1, 1, ()), ((2, 0), [2, 0], ()), ([0, (1, 2)], [[0, -1], [1, 2]], (2,)), ("index", 2, ())],
)
def test_targets_and_their_logits(target: object, targets: object, shape: tuple[int, ...], tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx", target=target)
    how = Preparation(target=2 if target == "index" else None)

    found = Explain(explainer, how)({"input": X[GOOD]})

    with OnnxExplainer(explainer) as opened:
        explanation = opened(X[GOOD], **({"target": 2} if target == "index" else {}))
    z = explanation.output.astype(np.float64)
    assert found["prediction"].tolist() == z.argmax(1).tolist()
    assert found["target"].tolist() == [targets] * len(z)
    cases = explanation.explained()
    several = shape[0] if shape else 1
    logits = np.array([case.logit for case in cases]).reshape(-1, several)
    sums = np.array([case.sum for case in cases]).reshape(-1, several)
    np.testing.assert_allclose(found["logit"].reshape(-1, several), logits, rtol=1e-5)
    np.testing.assert_allclose(found["sum.input"].reshape(-1, several), sums, rtol=1e-5, atol=1e-6)
    axes = np.moveaxis(explanation.relevance["input"], 1, 0) if shape else explanation.relevance["input"]
    np.testing.assert_allclose(found["relevance.input"], axes, rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_is_filled_up_and_cut(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx", rows=4, dynamic_shapes=None)

    found = Explain(explainer)({"input": X[GOOD]})

    with OnnxExplainer(explainer) as opened:
        pieces = [opened(X[GOOD][at : at + 4]).relevance["input"] for at in (0, 4)]
    np.testing.assert_array_equal(found["relevance.input"][:8], np.concatenate(pieces))
    assert np.isfinite(found["relevance.input"][8]).all()


def test_what_is_reduced_in_the_graph_becomes_columns(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx", reduce=["signs", "float16"])

    found = Explain(explainer)(pa.record_batch({"input": pa.FixedShapeTensorArray.from_numpy_ndarray(X[GOOD])}))

    with OnnxExplainer(explainer) as opened:
        explanation = opened(X[GOOD])
    for name in ("input.positive", "input.negative"):
        array = found.column(f"relevance.{name}").to_numpy_ndarray()
        assert array.dtype == np.float16
        # Rounded to 11 bits; a sum that differs in its last digit may fall to the other side.
        np.testing.assert_allclose(array, explanation.relevance[name], rtol=1e-3, atol=1e-6)
    for name, column in (("input", "sum.input"), ("absorbed", "absorbed")):
        np.testing.assert_allclose(found.column(column), explanation.sums[name], rtol=1e-5, atol=1e-6)


def test_a_target_for_each_row_comes_from_a_column(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx", target="index")
    target = np.arange(9) % 3

    found = Explain(explainer, Preparation(columns={"target": "label"}))({"input": X[GOOD], "label": target})

    with OnnxExplainer(explainer) as opened:
        expected = opened(X[GOOD], target=target).relevance["input"]
    assert found["target"].tolist() == target.tolist()
    np.testing.assert_allclose(found["relevance.input"], expected, rtol=1e-5, atol=1e-6)


def test_texts_of_one_length_in_a_dict(tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx")
    ids = np.random.default_rng(0).integers(2, 16, (5, 7))

    found = Explain(explainer)({"input_ids": ids})

    with OnnxExplainer(explainer) as opened:
        expected = opened(ids, np.ones_like(ids)).relevance["input_ids"]
    np.testing.assert_allclose(np.stack(found["relevance.input_ids"]), expected, rtol=1e-5, atol=1e-6)
