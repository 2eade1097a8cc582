"""A folder of pictures: scaled and cut as the page does it, each by its path, damaged ones aside."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data_sets import errors, of_pictures, tensors, written

from lrp_compiler.data import explain
from lrp_compiler.data.photos import read_picture
from lrp_compiler.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3, "resize": "crop", "crop": 1.0}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_pictures(tmp_path_factory.mktemp("explainer") / "p.lrp.onnx")


def test_pictures_of_the_inputs_size_are_taken_as_they_are(explainer: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    names = ["b.png", "a.bmp", "deep/c.PNG"]
    for number, name in enumerate(names):
        Image.fromarray(noise(8, 12, number)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "readme.txt").touch()

    explain(explainer, tmp_path / "photos", tmp_path / "out", mean=MEAN, std=STD, shard_rows=2)

    table = written(tmp_path / "out")
    assert table["id"].to_pylist() == ["a.bmp", "b.png", "deep/c.PNG"]
    colours = np.stack([noise(8, 12, number) for number in (1, 0, 2)]).transpose(0, 3, 1, 2) / 255
    x = (colours - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with OnnxExplainer(explainer) as opened:
        expected = opened(x.astype(np.float32)).relevance["input"]
    # The same in float32 throughout: the inputs differ in the last digit.
    np.testing.assert_allclose(tensors(table, "relevance.input"), expected, rtol=1e-5, atol=1e-7)


def test_a_broken_picture_is_an_error_of_its_row(explainer: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.fromarray(noise(40, 60, number)).save(tmp_path / "photos" / f"{number}.jpg")
    whole = (tmp_path / "photos" / "2.jpg").read_bytes()
    (tmp_path / "photos" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "4.jpg").write_text("no picture")

    done = explain(explainer, tmp_path / "photos", tmp_path / "out", batch_size=6)

    assert (done.explained, done.bad) == (4, 2)
    assert written(tmp_path / "out")["id"].to_pylist() == ["0.jpg", "1.jpg", "3.jpg", "5.jpg"]
    said = errors(tmp_path / "out")
    assert sorted(said) == [2, 4]
    assert all(text.startswith("The picture cannot be read (") and text.endswith(").") for text in said.values())


def test_pictures_in_a_column_are_their_files(explainer: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(noise(8, 12)).save(content, "png")
    as_of_a_hub = pa.array([{"bytes": content.getvalue(), "path": None}] * 2)
    pq.write_table(pa.table({"image": as_of_a_hub, "label": [0, 1]}), tmp_path / "data.parquet")
    pq.write_table(pa.table({"picture": [content.getvalue(), None]}), tmp_path / "bytes.parquet")

    explain(explainer, tmp_path / "data.parquet", tmp_path / "out", where="label == 1")
    explain(explainer, tmp_path / "bytes.parquet", tmp_path / "bytes")

    first, second = (tensors(written(tmp_path / folder), "relevance.input") for folder in ("out", "bytes"))
    np.testing.assert_array_equal(first, second)
    assert errors(tmp_path / "bytes") == {1: "Input 'input' is missing."}


def test_the_middle_is_taken_in_the_inputs_proportions() -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    # The middle half of the largest 40 by 60 is 10:30, 35:65; bilinear reduction by 2.5 sees 3 pixels more.
    image[7:33, 32:68] = 255
    made = io.BytesIO()
    Image.fromarray(image).save(made, "png")

    seen = read_picture(made.getvalue(), 3, 8, 12, {**PLAIN, "crop": 0.5})
    stretched = read_picture(made.getvalue(), 1, 4, 10, {**PLAIN, "mean": [0.0], "std": [2.0], "resize": "stretch"})

    np.testing.assert_array_equal(seen, np.ones((3, 8, 12), np.float32))
    # Each of 4 by 10 is 10 by 10 of 40 by 100, and what lies up to 10 beside it: columns 0 and 1 see no white.
    assert stretched.shape == (1, 4, 10)
    assert stretched[0, :, :2].max() == 0 < stretched[0, :, 4].max() <= 0.5


def test_whole_number_colours_are_scaled_where_mean_and_std_are_given(explainer: Path, tmp_path: Path) -> None:
    colours = np.stack([noise(8, 12, number).transpose(2, 0, 1) for number in range(3)])
    np.save(tmp_path / "x.npy", colours)

    with pytest.raises(InputError, match="has dtype uint8"):
        explain(explainer, tmp_path / "x.npy", tmp_path / "plain")
    explain(explainer, tmp_path / "x.npy", tmp_path / "out", mean=0.5, std=0.25)

    with OnnxExplainer(explainer) as opened:
        expected = opened(((colours / 255 - 0.5) / 0.25).astype(np.float32)).relevance["input"]
    # The same in float32 throughout: the inputs differ in the last digit.
    np.testing.assert_allclose(tensors(written(tmp_path / "out"), "relevance.input"), expected, rtol=1e-5, atol=1e-7)
