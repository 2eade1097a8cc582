"""Images of relevance without matplotlib: pixels, PNG files, captions."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from support.explanations import LABELS, images, made

from lrp_compiler.base.errors import InputError
from lrp_compiler.pictures.image import coloured


def test_the_colours_are_colorbrewers() -> None:
    at = np.linspace(-1, 1, 256)  # matplotlib's map has as many

    expected = colormaps["RdBu_r"]((at + 1) / 2)[:, :3] * 255

    # Half a step of its 256 in the colours' steepest part, 2 per step.
    assert np.abs(coloured(at) - expected).max() <= 1


def test_a_png_holds_the_pixels_and_says_what_they_are(tmp_path: Path) -> None:
    explanation = made({"x": images()})

    image = explanation.image(labels=LABELS, row=1)
    image.save(tmp_path / "x.png")

    with Image.open(tmp_path / "x.png") as read:
        read.load()
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read), image.pixels)
        assert read.info["Description"] == image.caption
    assert "composite epsilon-plus, target argmax; cat (class 0): logit 7" in image.caption
    assert repr(image).startswith("Image(8 × 6; composite epsilon-plus")
    with Image.open(io.BytesIO(image._repr_png_())) as read:
        assert read.size == (8, 6)
    with pytest.raises(InputError, match=r"end the path with \.png, not 'x\.jpg'"):
        image.save(tmp_path / "x.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_pixels_are_relevance_over_the_picture_in_grey() -> None:
    relevance = np.zeros((1, 1, 2, 2))
    relevance[0, 0] = [[2.0, -2.0], [0.0, 0.5]]
    seen = np.array([[[[0.0, 0.0], [1.0, 0.0]]]])

    plain = made({"x": relevance}, {"x": seen}).image(False, percentile=100).pixels
    over = made({"x": relevance}, {"x": seen}).image(percentile=100).pixels

    red, blue, none = (0x67, 0x00, 0x1F), (0x05, 0x30, 0x61), (0xF7, 0xF7, 0xF7)
    assert [tuple(pixel) for pixel in plain.reshape(-1, 3)[:3]] == [red, blue, none]
    # Where relevance is largest nothing of the picture is left; where it is 0, white at 1.8 of 2 of the scale.
    assert [tuple(pixel) for pixel in over.reshape(-1, 3)[:3]] == [red, blue, (round(255 * 1.8 / 2),) * 3]
    quarter = np.array([0xFD, 0xDB, 0xC7]) * 0.75 + np.array([0xF4, 0xA5, 0x82]) * 0.25  # colours stand at 1/5, 2/5
    half = 0.5 * quarter + 0.5 * 255 * 0.8 / 2  # opacity √¼, over black
    np.testing.assert_allclose(over[1, 1], half, atol=0.5 + 1e-9)


def test_a_larger_picture_says_the_size() -> None:
    explanation = made({"x": images()})
    photo = Image.fromarray(np.full((60, 80, 3), 255, np.uint8))

    assert explanation.image(photo).pixels.shape == (60, 80, 3)
    np.testing.assert_array_equal(
        explanation.image(photo, limit=1e9).pixels[0, 0], [round(255 * 1.8 / 2)] * 3
    )  # so pale that the photo alone is left
    with pytest.raises(InputError, match="Target 1 cannot be drawn: there are 1, from 0"):
        explanation.image(target=1)
    with pytest.raises(InputError, match="an image"):
        made({"x": np.ones((2, 5))}).image()


def test_numpy_is_all_that_it_needs() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'matplotlib', 'PIL', 'onnxruntime'): sys.modules[name] = None\n"
        "from lrp_compiler.explanation import Explanation\n"
        "import lrp_compiler.pictures.image"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("row", [0, 1])
def test_a_picture_of_the_row_and_those_of_the_batch_are_the_same(row: int) -> None:
    """To both pictures: what `image` and `heatmap` are given means the same."""
    explanation, photos = made({"x": images()}), [np.full((6, 8), 0.2), np.linspace(0, 1, 48).reshape(6, 8)]

    one = explanation.image(photos[row], row=row).pixels

    for given in (photos, [photos[row]], np.stack([np.stack([photo] * 3, -1) for photo in photos])):
        np.testing.assert_array_equal(explanation.image(given, row=row).pixels, one)
    drawn = []
    for given in (photos[row], [photos[row]], photos):
        parts = [axes.get_images() for axes in explanation.heatmap(given, rows=row).axes]
        drawn.append(next(found[0].get_array() for found in parts if found))
    for other in drawn:
        np.testing.assert_allclose(np.asarray(other).reshape(6, 8, -1)[..., 0], photos[row])


def test_another_number_of_pictures_names_the_option_that_chooses() -> None:
    with pytest.raises(InputError, match=r"^3 pictures cannot lie under 1 row: give one for row 0, which is drawn"):
        made({"x": images()}).image([np.zeros((6, 8))] * 3)
