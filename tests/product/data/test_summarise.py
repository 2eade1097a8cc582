"""What explanations have in common: means and intervals by hand, planted groups and tokens, and what is refused."""

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data_sets import WORDS, of_texts, tokenizer, written

from lrp_compiler.cli import main
from lrp_compiler.data import explain, outcome, summarise
from lrp_compiler.data.moments import Moments
from lrp_compiler.data.spectral import groups
from lrp_compiler.errors import InputError


def folder_of(place: Path, shards: int = 1, **columns: Any) -> Path:
    """What `explain` would have written: arrays `[rows, …]` as Arrow's tensors, the others as they are."""
    table = pa.table(
        {
            name: pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
            if isinstance(values, np.ndarray) and values.ndim > 1
            else pa.array(values)
            for name, values in columns.items()
        }
    )
    (place / "out" / "relevance.parquet").mkdir(parents=True)
    size = -(-len(table) // shards)
    for number in range(shards):
        part = table.slice(number * size, size)
        pq.write_table(part, place / "out" / "relevance.parquet" / f"part-{number:06}.parquet")
    manifest = {"generator": "lrp_compiler explain", "composite": "epsilon", "done": {}, "preparation": {}}
    (place / "out" / "manifest.json").write_text(json.dumps(manifest))
    return place / "out"


def of_maps(place: Path, maps: np.ndarray, shards: int = 1, **more: Any) -> Path:
    """Rows of maps, of classes 0, 1 and 2 in turn."""
    numbers = np.arange(len(maps))
    usual = {"id": numbers, "target": numbers % 3, "sum.x": maps.reshape(len(maps), -1).sum(1), "absorbed": numbers / 8}
    return folder_of(place, shards, **{**usual, "relevance.x": maps, **more})


MAPS = np.random.default_rng(0).standard_normal((60, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("shards", [1, 7])
def test_means_and_intervals_are_those_of_the_rows_of_a_class(shards: int, tmp_path: Path) -> None:
    summary = summarise(of_maps(tmp_path, MAPS, shards=shards), clusters=False)

    assert (summary.rows, summary.input, summary.composite) == (60, "x", "epsilon")
    assert {one.number: one.rows for one in summary.classes} == {0: 20, 1: 20, 2: 20}
    for one in summary.classes:
        own = MAPS[one.number :: 3].astype(np.float64)
        assert one.mean is not None
        assert one.margin is not None
        # The variance is a difference of sums, so that a few digits of float64 go.
        np.testing.assert_allclose(one.mean, own.mean(0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one.margin, 1.96 * own.std(0, ddof=1) / 20**0.5, rtol=1e-9)
        sums = own.sum((1, 2))
        assert one.relevance == pytest.approx((sums.mean(), 1.96 * sums.std(ddof=1) / 20**0.5), rel=1e-9)
        assert one.absorbed == pytest.approx(np.arange(60)[one.number :: 3].mean() / 8)


def test_channels_and_what_is_finer_than_a_cell_are_added_up(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).standard_normal((3, 2, 70, 33)).astype(np.float32)

    summary = summarise(of_maps(tmp_path, maps), clusters=False)

    for one in summary.classes:
        assert one.mean is not None
        assert one.mean.shape == (24, 11)  # 70 / 32 is more than 2: three by three
        assert one.mean[-1, 0] == pytest.approx(maps[one.number, :, 69:, :3].sum(dtype=np.float64))
        assert one.mean.sum() == pytest.approx(maps[one.number].sum(dtype=np.float64))


def test_a_token_counts_once_in_a_row_with_all_that_it_got(tmp_path: Path) -> None:
    texts = ["fine film fine", "bad film", "fine bad", "film", "fine film", "bad bad film fine", "fine it"] * 3
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    explainer, words = of_texts(tmp_path / "t.lrp.onnx"), tokenizer(tmp_path / "tokenizer.json")
    explain(explainer, tmp_path / "data.jsonl", tmp_path / "out", tokenizer=words, batch_size=4)

    summary = summarise(tmp_path / "out", tokenizer=words)

    table = written(tmp_path / "out").to_pylist()
    assert summary.classes
    for one in summary.classes:
        own = [row for row in table if row["target"] == one.number]
        listed = {token.token: token for token in (*one.tokens_for, *one.tokens_against)}
        for number, word in enumerate(WORDS):
            pairs = [zip(row["tokens.input_ids"], row["relevance.input_ids"], strict=True) for row in own]
            got = [[value for token, value in pair if token == number] for pair in pairs]
            each = np.array([sum(values) for values in got if values], np.float64)
            margin = 1.96 * each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.inf
            sure = len(each) >= 5 and abs(each.mean()) > margin
            assert (word in listed) == sure
            if sure:
                assert (listed[word].rows, word in {token.token for token in one.tokens_for}) == (
                    len(each),
                    each.mean() > 0,
                )
                # The variance is a difference of sums, so that a few digits go.
                assert listed[word].mean == pytest.approx(each.mean(), rel=1e-9)
                assert listed[word].margin == pytest.approx(margin, rel=1e-6, abs=1e-9)
    assert "fine" in (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")


def test_moments_of_places_that_come_later() -> None:
    moments = Moments.of(0)
    moments.add_at(np.array([1, 3]), np.array([2.0, 5.0]))
    moments.add_at(np.array([1, 0]), np.array([4.0, 1.0]))

    assert moments.count.tolist() == [1, 2, 0, 1]
    assert moments.mean.tolist() == [1, 3, 0, 5]
    # Two values, 2 and 4: standard deviation √2, of the mean 1.
    assert moments.margin[1] == pytest.approx(1.96)
    assert np.isinf(moments.margin[[0, 2, 3]]).all()


@pytest.mark.parametrize("sizes", [(200,), (150, 50), (100, 60, 40)])
def test_planted_groups_are_found_whatever_their_strength(sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    directions = np.eye(64)[: len(sizes)] * 4
    planted = np.repeat(np.arange(len(sizes)), sizes)
    maps = directions[planted] + 0.3 * random.standard_normal((sum(sizes), 64))
    order = random.permutation(len(maps))

    found = groups((maps * random.uniform(0.1, 10, (len(maps), 1)))[order])

    if len(sizes) > 1:
        assert found.labels.tolist() == planted[order].tolist()  # the largest comes first
        # By hand: inside a group cos = 4² / (4² + 64 · 0.3²), between groups 0; distances are √(2 − 2 cos).
        assert found.apart == pytest.approx(1 - (1 - 16 / 21.76) ** 0.5, abs=0.03)
    else:
        assert found.apart < 0.1


def test_what_is_like_no_other_is_an_outlier() -> None:
    random = np.random.default_rng(0)
    maps = np.ones((80, 16)) + 0.1 * random.standard_normal((80, 16))
    maps[17] = -np.arange(16)

    assert groups(maps).outliers[0] == 17


@pytest.mark.parametrize("count", [1, 5, 39])
def test_few_maps_are_one_group(count: int) -> None:
    found = groups(np.random.default_rng(0).standard_normal((count, 9)))

    assert found.labels.tolist() == [0] * count
    assert not found.outliers


def test_the_page_is_one_file_that_shows_the_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = np.random.default_rng(0).standard_normal((100, 3, 8, 12)).astype(np.float32)
    out = of_maps(tmp_path, pictures)
    (tmp_path / "labels.txt").write_text("cat\n<b>dog</b>\nfish\n")

    assert main(["summarise", str(out), "--labels", str(tmp_path / "labels.txt"), "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    page = Path(said["report"]).read_text(encoding="utf-8")
    assert {one["name"] for one in said["classes"]} <= {"cat", "<b>dog</b>", "fish"}
    assert "<b>dog" not in page
    assert not re.search(r"(?:src|href)=.(?!data:|#)", page)
    assert "<script" not in page
    first = said["classes"][0]
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in re.findall(r"base64,([^\"]+)", page)]
    assert {image.size for image in images} == {(12, 8)}
    red = np.asarray(images[0]).astype(int)
    mean = np.array(first["mean"])
    strong = np.abs(mean) > 0.1 * np.abs(mean).max()
    assert ((red[..., 0] > red[..., 2]) == (mean > 0))[strong].all()


def test_of_a_class_with_one_row_the_page_speaks_of_one(tmp_path: Path) -> None:
    """Classes 0 to 2 have a row each: nothing is a mean, a group, or typical of it."""
    out = of_maps(tmp_path, np.random.default_rng(0).standard_normal((3, 1, 6, 6)).astype(np.float32))

    assert main(["summarise", str(out)]) == 0

    page = (out / "summary.html").read_text(encoding="utf-8")
    sections = page.split("<section id=")[1:]
    assert len(sections) == 3
    for section in sections:
        assert "<p>1 row, Σ relevance " in section
        assert "Its only row" in section
        assert section.count("<img ") == 1
    assert not re.search(r"\b1 rows|One group|typical row|fall apart|Mean of", page)
    assert re.search(r"<figcaption>colours end at ±[\d.]+</figcaption>", page)


def test_of_one_group_the_page_does_not_say_each(tmp_path: Path) -> None:
    out = of_maps(tmp_path, np.random.default_rng(0).standard_normal((12, 1, 6, 6)).astype(np.float32))

    assert main(["summarise", str(out)]) == 0

    page = (out / "summary.html").read_text(encoding="utf-8")
    assert "<p>4 rows, Σ relevance " in page
    assert "One group, with its most typical rows: the maps do not fall apart" in page
    assert "each with its" not in page
    assert re.search(r"<figcaption>row \d+; colours end at ±[\d.]+</figcaption>", page)


def test_a_planted_group_is_shown_with_its_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    maps = np.ones((300, 4, 4)) + 0.05 * random.standard_normal((300, 4, 4))
    planted = np.arange(300) % 5 == 0
    maps[planted] *= 0.1
    maps[planted, 0, 3] += 3

    summary = summarise(of_maps(tmp_path, maps.astype(np.float32), target=np.zeros(300, np.int64)))

    whole, own = summary.classes[0].groups
    assert (whole.share, own.share) == (0.8, 0.2)
    assert set(own.ids) == set(np.flatnonzero(planted).tolist())
    assert {id for id, _ in own.examples} <= set(own.ids)
    np.testing.assert_allclose(own.mean, maps[planted].mean(0), rtol=1e-5)
    again = summarise(tmp_path / "out").classes[0].groups[1]
    assert again.ids == own.ids


def test_without_scikit_learn_there_are_means_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = of_maps(tmp_path, MAPS)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)

    with pytest.raises(ImportError, match=r"without scikit-learn: pip install 'lrp-compiler\[summary\]'"):
        summarise(out)
    assert not any(one.groups for one in summarise(out, clusters=False).classes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input": "y"}, "no relevance of 'y' here, but of x"),
        ({"labels": ["one"]}, "The labels have no name for class"),
        ({"tokenizer": "tokenizer.json"}, "which is no text"),
        ({"clusters": 1}, "clusters is True or False"),
        ({"seed": None}, "seed is a whole number"),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        summarise(of_maps(tmp_path, MAPS), **options)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"target": np.zeros((60, 2), np.int64)}, "Several targets of a row lie side by side"),
        ({"relevance.x": [[1.0]] * 60}, "not of one shape"),
        ({"sum.z": np.zeros(60)}, "Relevance is of x and of z: choose with input="),
    ],
)
def test_what_cannot_be_summed_up_is_a_sentence(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        summarise(of_maps(tmp_path, MAPS, **columns))


def test_the_largest_alone_are_not_summed_up(tmp_path: Path) -> None:
    columns = {"id": [0], "target": [0], "sum.x": [1.0], "absorbed": [None], "relevance.x.values": np.ones((1, 2))}
    with pytest.raises(InputError, match="holds its largest alone"):
        summarise(folder_of(tmp_path, **columns))


def test_another_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no output of lrp-compiler explain"):
        summarise(tmp_path)


def test_signs_apart_are_added_up(tmp_path: Path) -> None:
    parts = {
        f"relevance.x.{name}": part for name, part in (("positive", MAPS * (MAPS > 0)), ("negative", MAPS * (MAPS < 0)))
    }
    columns = {
        "id": np.arange(60),
        "target": np.zeros(60, np.int64),
        "sum.x": MAPS.sum((1, 2)),
        "absorbed": [None] * 60,
    }

    (one,) = summarise(folder_of(tmp_path, **columns, **parts), clusters=False).classes

    assert one.absorbed is None
    np.testing.assert_allclose(one.mean, MAPS.mean(0), rtol=1e-5, atol=1e-6)


def test_features_are_listed(tmp_path: Path) -> None:
    page = summarise(of_maps(tmp_path, MAPS[:, 0]), clusters=False).report.read_text(encoding="utf-8")

    assert page.count("<b>number ") == 9
    assert "base64" not in page


def test_no_more_is_read_at_a_time_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "MEMORY", 7 * MAPS[0].nbytes)

    read = list(outcome.Outcome(of_maps(tmp_path, MAPS, shards=3), None).read())

    assert max(len(rows.ids) for rows in read) == 7
    assert [id for rows in read for id in rows.ids] == list(range(60))


def test_of_many_classes_the_first_are_shown(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).standard_normal((130, 2, 2)).astype(np.float32)

    page = summarise(of_maps(tmp_path, maps, target=np.arange(130)), clusters=False).report.read_text(encoding="utf-8")

    assert page.count("<h2>") == page.count('href="#c') == 100
    assert page.count("<tr>") == 131


def test_rows_without_a_class_are_one(tmp_path: Path) -> None:
    none = {name: np.full(60, -1) for name in ("target", "prediction")}

    (one,) = summarise(of_maps(tmp_path, MAPS, **none), clusters=False, labels=["a"]).classes

    assert (one.name, one.rows) == ("all rows", 60)
