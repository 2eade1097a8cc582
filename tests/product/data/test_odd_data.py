"""Data as people have it: one odd row costs itself, and what cannot be meant is said."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data_sets import errors, of_pictures, of_rows, of_texts, rows, tokenizer, written

from lrp_compiler.data import explain, summarise
from lrp_compiler.data.engine import Explain
from lrp_compiler.data.photos import read_picture
from lrp_compiler.data.where import Where
from lrp_compiler.data.window import Window
from lrp_compiler.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

PLAIN = {"mean": [0.0], "std": [1.0], "resize": "stretch", "crop": 1.0}


def lines(path: Path, given: list[Any]) -> Path:
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in given))
    return path


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_the_colours_that_eight_are(ending: str, tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / f"eight.{ending}")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"sixteen.{ending}")

    eight, sixteen = (read_picture(str(tmp_path / f"{name}.{ending}"), 1, 8, 8, PLAIN) for name in ("eight", "sixteen"))

    np.testing.assert_array_equal(sixteen, eight)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_colours_whose_white_is_not_said_are_refused(dtype: Any, tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), dtype)).save(tmp_path / "p.tif")

    with pytest.raises(InputError, match="what is white is not said"):
        read_picture(str(tmp_path / "p.tif"), 1, 8, 8, PLAIN)


def test_the_inputs_of_one_text_are_as_long_as_each_other(tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx")
    lengths = [(5, 7), (7, 5), (4, 4)]
    given = [{"input_ids": [*range(2, 2 + ids)], "attention_mask": [1] * mask} for ids, mask in lengths]

    explain(explainer, lines(tmp_path / "x.jsonl", given), tmp_path / "out")

    assert written(tmp_path / "out")["id"].to_pylist() == [2]
    assert {row: "input_ids 5, attention_mask 7" in said for row, said in errors(tmp_path / "out").items()} == {
        0: True,
        1: False,
    }


@pytest.mark.slow
@pytest.mark.parametrize("reduce", [["top:4"], ["patch:2"]])
def test_reduced_texts_are_what_each_is_alone(reduce: list[str], tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx", reduce=reduce)
    texts = ["a fine film", "so bad", "and you saw that it is not bad but fine", "me"]
    how: Any = {"tokenizer": tokenizer(tmp_path / "tokenizer.json")}
    data = lines(tmp_path / "x.jsonl", [{"text": text} for text in texts])

    for size in (1, 8):
        explain(explainer, data, tmp_path / f"by{size}", batch_size=size, **how)

    alone, together = (written(tmp_path / f"by{size}") for size in (1, 8))
    for name in alone.column_names:
        for one, other in zip(alone[name].to_pylist(), together[name].to_pylist(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    if reduce == ["patch:2"]:
        with pytest.raises(InputError, match="not of single tokens"):
            summarise(tmp_path / "by8", tokenizer=how["tokenizer"])


def test_a_tokenizer_that_cuts_on_the_left_does(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(tokenizer(tmp_path / "tokenizer.json")))
    made.enable_truncation(3, direction="left")
    made.save(str(tmp_path / "left.json"))
    data = lines(tmp_path / "x.jsonl", [{"text": "a fine film that nobody saw"}])

    explain(of_texts(tmp_path / "t.lrp.onnx"), data, tmp_path / "out", tokenizer=tmp_path / "left.json")

    assert written(tmp_path / "out")["tokens.input_ids"].to_pylist() == [[5, 6, 7]]


def test_half_a_character_costs_its_row(tmp_path: Path) -> None:
    explainer = of_texts(tmp_path / "t.lrp.onnx")
    given = [{"id": "a", "text": "so bad"}, '{"id": "b", "text": "\\ud800 bad"}', '{"id": "\\ud800", "text": "me"}']

    explain(
        explainer,
        lines(tmp_path / "x.jsonl", given),
        tmp_path / "out",
        tokenizer=tokenizer(tmp_path / "tokenizer.json"),
    )

    assert written(tmp_path / "out")["id"].to_pylist() == ["a"]
    assert ["no Unicode" in said for said in errors(tmp_path / "out").values()] == [True, True]


@pytest.mark.parametrize("odd", ["n/a", {"a": 1}, True, None, [1]])
@pytest.mark.parametrize("place", [0, 2])
def test_an_odd_value_costs_its_row_wherever_it_stands(odd: Any, place: int, tmp_path: Path) -> None:
    given = [{"input": row} for row in rows(5).tolist()]
    given[place] = {"input": odd}

    explain(of_rows(tmp_path / "m.lrp.onnx"), lines(tmp_path / "x.jsonl", given), tmp_path / "out")

    assert list(errors(tmp_path / "out")) == [place]
    assert "Pictures" not in errors(tmp_path / "out")[place]


def test_a_number_among_pictures_costs_its_row(tmp_path: Path) -> None:
    Image.new("RGB", (12, 8)).save(tmp_path / "p.png")
    given = [{"image": 5}, {"image": str(tmp_path / "p.png")}, {"image": {"bytes": None, "path": None}}]

    explain(of_pictures(tmp_path / "m.lrp.onnx"), lines(tmp_path / "x.jsonl", given), tmp_path / "out")

    assert written(tmp_path / "out")["id"].to_pylist() == [1]
    assert all("A picture is its file's path or content" in said for said in errors(tmp_path / "out").values())


def test_ids_that_are_too_large_cost_their_row(tmp_path: Path) -> None:
    given = [{"id": at, "input": row} for at, row in zip([1, 1 << 63, 10**30], rows(3).tolist(), strict=True)]

    explain(of_rows(tmp_path / "m.lrp.onnx"), lines(tmp_path / "x.jsonl", given), tmp_path / "out")

    assert written(tmp_path / "out")["id"].to_pylist() == [1]
    assert ["64 bits" in said for said in errors(tmp_path / "out").values()] == [True, True]


def test_another_column_of_ids_is_another_job(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx")
    table = pa.table({"input": pa.FixedShapeTensorArray.from_numpy_ndarray(rows(4)), "n": [10, 11, 12, 13]})
    pq.write_table(table, tmp_path / "x.parquet")
    explain(explainer, tmp_path / "x.parquet", tmp_path / "out")

    with pytest.raises(InputError, match="another column of ids"):
        explain(explainer, tmp_path / "x.parquet", tmp_path / "out", id="n")


@pytest.mark.parametrize("how", [{"mean": 0.5}, {"std": 2.0}])
def test_what_nothing_is_scaled_by_is_refused(how: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 3, 8, 12), np.float32))

    with pytest.raises(InputError, match="mean and std are of pictures in files and of colours in uint8"):
        explain(of_pictures(tmp_path / "m.lrp.onnx"), tmp_path / "x.npy", tmp_path / "out", **how)


@pytest.mark.parametrize("odd", ["x", {"a": 1}, 10**30, "\ud800"])
def test_a_value_that_compares_with_nothing_costs_its_row(odd: Any) -> None:
    window = Window({"label": [1, 2, odd, 1.0, None]}, np.arange(5), np.arange(5))

    found = Where("label == 1").of(window)

    assert found.numbers.tolist() == [0, 2, 3]
    assert list(found.errors) == [1]


@pytest.mark.parametrize(
    "text", ["3 in (1, 2, 3)", "None is None", "1 == 1", "label == None", "label == 1" + "0" * 400]
)
def test_conditions_on_no_column_or_on_nothing_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"is no condition|does not fit"):
        Where(text).of(Window({"label": [1, 2]}, np.arange(2), np.arange(2)))


def test_a_batch_of_no_rows_or_of_nothing(tmp_path: Path) -> None:
    engine = Explain(of_rows(tmp_path / "m.lrp.onnx"))
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3])

    assert engine(pa.table({"input": pa.array([], kind)})).num_rows == 0
    for batch in ({}, 5, [1]):
        with pytest.raises(InputError, match="A batch is"):
            engine(batch)


def test_a_line_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    given = [{"input": rows(1)[0].tolist()}, "", "", "{broken"]

    explain(of_rows(tmp_path / "m.lrp.onnx"), lines(tmp_path / "x.jsonl", given), tmp_path / "out")

    assert errors(tmp_path / "out")[1].startswith("Line 4 is no JSON (")


def test_columns_of_one_name_and_outputs_without_rows(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx")
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(rows(2))
    pq.write_table(pa.table([column, column], names=["input", "input"]), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="several columns 'input'"):
        explain(explainer, tmp_path / "twice.parquet", tmp_path / "out")

    pq.write_table(pa.table({"input": column, "label": [1, 2]}), tmp_path / "x.parquet")
    explain(explainer, tmp_path / "x.parquet", tmp_path / "none", where="label == 7")
    with pytest.raises(InputError, match=r"No row of .* was explained"):
        summarise(tmp_path / "none")


def test_a_length_that_leaves_no_room_for_a_text_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer.from_file(str(tokenizer(tmp_path / "tokenizer.json")))
    made.post_processor = TemplateProcessing(single="a $A bad", special_tokens=[("a", 2), ("bad", 16)])
    made.save(str(tmp_path / "tokenizer.json"))
    explainer = of_texts(tmp_path / "t.lrp.onnx")
    how: Any = {"tokenizer": tmp_path / "tokenizer.json"}
    data = lines(tmp_path / "x.jsonl", [{"text": "fine film"}])

    with pytest.raises(InputError, match="take 3 at least"):
        explain(explainer, data, tmp_path / "out", max_length=2, **how)

    explain(explainer, data, tmp_path / "out", max_length=3, **how)
    with OnnxExplainer(explainer) as opened:
        alone = opened(np.array([[2, 3, 16]]), np.ones((1, 3), np.int64)).relevance["input_ids"][0]
    np.testing.assert_allclose(written(tmp_path / "out")["relevance.input_ids"][0].as_py(), alone, rtol=1e-5)


def test_what_is_said_of_pictures_is_refused_of_numbers(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx")
    np.save(tmp_path / "x.npy", rows(3))
    for option in ({"crop": 0.5}, {"resize": "stretch"}, {"size": 8}):
        with pytest.raises(InputError, match="size, crop and resize are of pictures"):
            explain(explainer, tmp_path / "x.npy", tmp_path / "out", **option)


def test_dates_compare_as_text(tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx")
    days = [datetime.date(2026, 12, day) for day in (1, 2, 3)]
    times = [datetime.datetime(2026, 12, day, 7) for day in (1, 2, 3)]
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(rows(3))
    pq.write_table(pa.table({"input": column, "day": days, "time": times}), tmp_path / "x.parquet")

    explain(explainer, tmp_path / "x.parquet", tmp_path / "a", where="day >= '2026-12-02' and day != '2026-12-03'")
    explain(explainer, tmp_path / "x.parquet", tmp_path / "b", where="time > '2026-12-02 08:00'")

    assert written(tmp_path / "a")["id"].to_pylist() == [1]
    assert written(tmp_path / "b")["id"].to_pylist() == [2]


@pytest.mark.parametrize("manifest", [None, "{"])
def test_explanations_without_their_manifest_are_let_be(manifest: str | None, tmp_path: Path) -> None:
    explainer = of_rows(tmp_path / "m.lrp.onnx")
    np.save(tmp_path / "x.npy", rows(3))
    explain(explainer, tmp_path / "x.npy", tmp_path / "out")
    place = tmp_path / "out" / "manifest.json"
    place.unlink() if manifest is None else place.write_text(manifest)

    with pytest.raises(InputError, match=r"manifest\.json is missing or damaged"):
        explain(explainer, tmp_path / "x.npy", tmp_path / "out")
    with pytest.raises(InputError, match=r"manifest\.json is missing or damaged"):
        summarise(tmp_path / "out")
    assert written(tmp_path / "out").num_rows == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_no_data_and_no_picture(tmp_path: Path) -> None:
    """Nobody waits for who may write into it."""
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        explain(of_rows(tmp_path / "m.lrp.onnx"), tmp_path / "x.npy", tmp_path / "out")
    (tmp_path / "photos").mkdir()
    os.mkfifo(tmp_path / "photos" / "a.png")
    Image.new("RGB", (12, 8)).save(tmp_path / "photos" / "b.png")
    explain(of_pictures(tmp_path / "p.lrp.onnx"), tmp_path / "photos", tmp_path / "seen")
    assert written(tmp_path / "seen")["id"].to_pylist() == ["b.png"]


def test_a_job_that_was_refused_may_be_begun_with_other_options(tmp_path: Path) -> None:
    """Nothing is explained yet, so nothing can be mixed up."""
    explainer = of_rows(tmp_path / "m.lrp.onnx")
    np.save(tmp_path / "x.npy", rows(3))
    with pytest.raises(InputError, match="mean and std are of pictures"):
        explain(explainer, tmp_path / "x.npy", tmp_path / "out", mean=0.5)

    explain(explainer, tmp_path / "x.npy", tmp_path / "out")

    assert written(tmp_path / "out").num_rows == 3
    with pytest.raises(InputError, match="another limit"):
        explain(explainer, tmp_path / "x.npy", tmp_path / "out", limit=1)
