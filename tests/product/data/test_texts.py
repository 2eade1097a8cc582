"""Texts of different lengths: what is written is what each text gives alone, and nothing of what fills a batch up."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data_sets import WORDS, errors, of_texts, tokenizer, written

from lrp_compiler.data import explain
from lrp_compiler.data.batches import batches
from lrp_compiler.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

TEXTS = [" ".join(WORDS[2:][at % 14] for at in range(start, start + length)) for start, length in
         [(0, 3), (4, 9), (1, 1), (2, 9), (7, 5), (3, 12), (9, 2), (0, 7), (5, 4), (6, 5), (8, 1)]]  # fmt: skip


def jsonl(folder: Path, texts: list[object]) -> Path:
    (folder / "data.jsonl").write_text("\n".join(json.dumps({"review": text}) for text in texts))
    return folder / "data.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize(("masked", "length"), [(True, None), (False, None), (True, 10)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_text_is_explained_as_it_is_alone(masked: bool, length: int | None, batch_size: int, tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx", masked, length)
    options = {"tokenizer": tokenizer(tmp_path / "tokenizer.json"), "columns": {"text": "review"}}

    explain(explainer, jsonl(tmp_path, [*TEXTS]), tmp_path / "out", batch_size=batch_size, shard_rows=6, **options)  # type: ignore[arg-type]

    table = written(tmp_path / "out")
    assert table["id"].to_pylist() == list(range(len(TEXTS)))
    with OnnxExplainer(explainer) as opened:
        for text, row in zip(TEXTS, table.to_pylist(), strict=True):
            ids = np.array([[WORDS.index(word) for word in text.split()]])[:, :length]
            count = ids.shape[1]
            whole = np.zeros((1, length or count), np.int64)
            whole[:, :count] = ids
            args = (whole, (np.arange(whole.shape[1]) < count)[None].astype(np.int64)) if masked else (whole,)
            alone = opened(*args)
            assert len(row["relevance.input_ids"]) == count
            assert row["tokens.input_ids"] == ids[0].tolist()
            # Sums over filled-up places add zeros, in an order of their own: rounding alone differs.
            np.testing.assert_allclose(
                row["relevance.input_ids"], alone.relevance["input_ids"][0, :count], rtol=1e-5, atol=1e-7
            )
            assert row["prediction"] == alone.output[0].argmax()


def test_ids_that_are_there_already_need_no_tokenizer(tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx")
    ids = [[2, 3, 4], [5], [6, 7, 8, 9]]
    pq.write_table(pa.table({"input_ids": pa.array(ids)}), tmp_path / "ids.parquet")

    explain(explainer, tmp_path / "ids.parquet", tmp_path / "out")

    table = written(tmp_path / "out")
    assert table.schema.field("relevance.input_ids").type == pa.list_(pa.float32())
    assert [len(row) for row in table["relevance.input_ids"].to_pylist()] == [3, 1, 4]


def test_what_is_no_text_is_an_error_of_its_row(tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx")
    data = jsonl(tmp_path, ["a fine film", None, "", 3, "so bad"])

    explain(explainer, data, tmp_path / "out", tokenizer=tokenizer(tmp_path / "t.json"), columns={"text": "review"})

    assert written(tmp_path / "out")["id"].to_pylist() == [0, 4]
    assert errors(tmp_path / "out") == {
        1: "A text is wanted, not NoneType.",
        2: "The text has no tokens.",
        3: "A text is wanted, not int.",
    }


def test_a_file_that_is_no_tokenizer_is_said(tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx")
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(InputError, match=r"is no tokenizer\.json"):
        explain(explainer, jsonl(tmp_path, ["a"]), tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")


@given(
    lengths=st.lists(st.integers(1, 6), max_size=30),
    size=st.integers(1, 7),
    filled_up=st.booleans(),
)
def test_batches_hold_each_row_once_and_shapes_that_fit(lengths: list[int], size: int, filled_up: bool) -> None:
    shapes = [((length,),) for length in lengths]

    found = batches(shapes, range(len(lengths)), size, filled_up)

    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in found)
    if not filled_up:
        assert all(len({lengths[row] for row in batch}) == 1 for batch in found)
    ordered = [lengths[row] for batch in found for row in batch]
    assert ordered == sorted(ordered)
