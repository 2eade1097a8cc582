"""Data sets explained by differences: every row is compared with what was said, or with what its columns hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import errors, of_rows, of_texts, rows, tensors, tokenizer, written

from lrp_compiler.base.errors import InputError
from lrp_compiler.cli import main
from lrp_compiler.data import Explain, Preparation, explain
from lrp_compiler.runtime import OnnxExplainer

X, THERE = rows(10), rows(10, seed=1)


@pytest.fixture
def explainer(tmp_path: Path) -> Path:
    return of_rows(tmp_path / "m.lrp.onnx", composite="reference", target=1)


@pytest.mark.parametrize("reference", [None, 0.5, THERE[:1], {"input": -1}])
def test_rows_are_compared_with_what_is_said(reference: Any, explainer: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with OnnxExplainer(explainer) as opened:
        wanted = opened(X, reference=reference).relevance["input"]

    explain(explainer, tmp_path / "x.npy", tmp_path / "out", reference=reference, batch_size=4)

    # Other batches: float32's rounding.
    np.testing.assert_allclose(tensors(written(tmp_path / "out"), "relevance.input"), wanted, rtol=1e-5, atol=1e-6)


def test_columns_say_it_row_by_row(explainer: Path) -> None:
    with OnnxExplainer(explainer) as opened:
        wanted = opened(X, reference=THERE).relevance["input"]

    by_name = Explain(explainer)({"input": X, "reference.input": THERE})
    another = Explain(explainer, Preparation({"reference.input": "before"}))({"input": X, "before": THERE})

    for found in (by_name, another):
        np.testing.assert_allclose(found["relevance.input"], wanted, rtol=1e-5, atol=1e-6)


def test_a_job_with_another_reference_is_another_job(explainer: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    explain(explainer, tmp_path / "x.npy", tmp_path / "out", reference=THERE[:1])
    with pytest.raises(InputError, match="preparation"):
        explain(explainer, tmp_path / "x.npy", tmp_path / "out", reference=THERE[1:2])


def test_texts_need_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_texts(tmp_path / "t.lrp.onnx", composite="reference", target=1)
    texts = ["good", "a very good plot", "bad bad"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "t.parquet")
    path = str(tokenizer(tmp_path / "tokenizer.json"))
    job = ["explain", str(tmp_path / "t.lrp.onnx"), str(tmp_path / "t.parquet"), "--tokenizer", path]

    assert main([*job, "-o", str(tmp_path / "out")]) == 1
    assert "no reference that goes without saying" in capsys.readouterr().err

    assert main([*job, "-o", str(tmp_path / "out"), "--reference", "1"]) == 0
    assert not errors(tmp_path / "out")
    table = written(tmp_path / "out")
    with OnnxExplainer(tmp_path / "t.lrp.onnx") as opened:
        for tokens, found in zip(table["tokens.input_ids"], table["relevance.input_ids"], strict=True):
            ids = np.array([tokens.as_py()])
            padded = np.pad(ids, ((0, 0), (0, 4 - ids.shape[1])))
            wanted = opened(padded, (np.arange(4) < ids.shape[1])[None].astype(np.int64), reference=1)
            alone = wanted.relevance["input_ids"][0, : ids.shape[1]]
            np.testing.assert_allclose(found.as_py(), alone, rtol=1e-5, atol=1e-6)


def test_explainers_of_values_take_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="composite='reference'"):
        Explain(of_rows(tmp_path / "m.lrp.onnx"), Preparation(reference=0))


def test_several_rows_of_a_reference_are_no_column(explainer: Path) -> None:
    """They would be taken for those of each batch."""
    for reference in (THERE, THERE[:3], {"input": THERE[:0]}):
        with pytest.raises(InputError, match=r"give one for all rows of the data, or a column 'reference\.input'"):
            Explain(explainer, Preparation(reference=reference))


def test_a_column_of_other_texts_is_as_long_as_the_texts(tmp_path: Path) -> None:
    of_texts(tmp_path / "t.lrp.onnx", composite="reference", target=1)
    ids, there = [[2, 3, 4], [2, 3, 4, 5, 6], [7, 8, 9]], [[9, 9, 9], [9, 3, 9, 9, 9], [1, 1]]
    rows = [
        {"input_ids": one, "attention_mask": [1] * len(one), "reference.input_ids": other}
        for one, other in zip(ids, there, strict=True)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))

    explain(tmp_path / "t.lrp.onnx", tmp_path / "x.jsonl", tmp_path / "out")

    assert "different lengths" in errors(tmp_path / "out")[2]
    table = written(tmp_path / "out")
    with OnnxExplainer(tmp_path / "t.lrp.onnx") as opened:
        for one, other, found in zip(ids[:2], there[:2], table["relevance.input_ids"], strict=True):
            given = np.array([one]), np.ones((1, len(one)), np.int64)
            wanted = opened(*given, reference={"input_ids": np.array([other])}).relevance["input_ids"][0]
            np.testing.assert_allclose(found.as_py(), wanted, rtol=1e-5, atol=1e-6)
