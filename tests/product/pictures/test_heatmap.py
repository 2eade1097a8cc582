"""Heatmaps: the numbers behind the colours, captions, and clear errors."""

import builtins
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from support.explanations import LABELS, LOGITS, images, made
from support.figures import texts

from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.pictures.common import smoothed
from lrp_compiler.pictures.figure import SUITED, diverging


def relevance_image(figure: Any, part: int = 0) -> Any:
    return figure.axes[part].images[-1]


@pytest.mark.parametrize("colours", SUITED)
def test_the_largest_pixel_has_the_end_of_the_colours_and_zero_their_middle(colours: str) -> None:
    values = np.zeros((1, 1, 4, 5))
    values[0, 0, 1, 2], values[0, 0, 3, 4] = 2.0, -2.0
    figure = made({"x": values}, logits=LOGITS[:1]).heatmap(style="plain", percentile=100, colours=colours)
    drawn = relevance_image(figure)
    shown = drawn.cmap(drawn.norm(drawn.get_array()))
    palette = diverging(colours)
    np.testing.assert_array_equal(shown[1, 2], palette(1.0))
    np.testing.assert_array_equal(shown[3, 4], palette(0.0))
    np.testing.assert_array_equal(shown[0, 0], palette(0.5))
    assert drawn.get_clim() == (-2.0, 2.0)


def test_red_speaks_for_and_blue_against() -> None:
    palette = diverging("RdBu_r")
    assert palette(0.9)[0] > palette(0.9)[2]
    assert palette(0.1)[2] > palette(0.1)[0]


def test_colours_end_at_the_percentile_of_each_part() -> None:
    values = np.arange(-100.0, 100.0).reshape(2, 1, 10, 10)
    figure = made({"x": values}).heatmap(style="plain", percentile=90)
    for part, row in enumerate(values):
        assert relevance_image(figure, part).get_clim()[1] == pytest.approx(np.percentile(np.abs(row), 90))
    assert "90th percentile" in figure.get_suptitle()
    shared = made({"x": values}).heatmap(style="plain", limit=7.0)
    assert [relevance_image(shared, part).get_clim() for part in (0, 1)] == [(-7.0, 7.0)] * 2
    assert "colours end at ±7" in shared.get_suptitle()


def test_channels_are_added_up_wherever_they_are() -> None:
    first = np.random.default_rng(1).normal(size=(2, 3, 6, 8))
    last = np.moveaxis(first, 1, -1)
    for values in (first, last, first.sum(1)):
        figure = made({"x": values}).heatmap(style="plain")
        np.testing.assert_allclose(relevance_image(figure, 1).get_array(), first[1].sum(0))


def test_no_relevance_at_all_is_a_blank_picture() -> None:
    figure = made({"x": np.zeros((2, 3, 6, 8))}).heatmap()
    assert relevance_image(figure).get_clim() == (-1.0, 1.0)


def test_a_caption_states_composite_target_logit_and_sum() -> None:
    relevance = images()
    figure = made({"x": relevance}).heatmap(labels=LABELS, title="A title")
    said = texts(figure)
    assert figure.get_suptitle().splitlines()[:2] == ["A title", "composite epsilon-plus, target argmax"]
    assert f"dog (class 1)\nlogit 5, Σ relevance {relevance[0].astype(float).sum():.3g}" in said
    assert "cat (class 0)\nlogit 7" in said


def test_an_overlay_is_as_opaque_as_relevance_is_strong() -> None:
    values = np.zeros((1, 3, 6, 8))
    values[0, 0, 0, 0], values[0, 0, 1, 1] = 4.0, -1.0
    figure = made({"x": values}, logits=LOGITS[:1]).heatmap(np.zeros((12, 16, 3), np.uint8), percentile=100)
    photo, drawn = figure.axes[0].images
    assert photo.get_cmap().name == "gray"
    opacity = drawn.get_alpha()
    assert (opacity[0, 0], opacity[1, 1], opacity[2, 2]) == (1.0, 0.5, 0.0)
    assert photo.get_extent() == drawn.get_extent()


def test_contours_lie_where_relevance_is_and_have_the_colour_of_its_sign() -> None:
    values = np.zeros((1, 1, 20, 20))
    values[0, 0, 5:8, 5:8], values[0, 0, 14:17, 14:17] = 1.0, -1.0
    figure = made({"x": values}, logits=LOGITS[:1]).heatmap(style="contour", percentile=100)
    (contours,) = figure.axes[0].collections
    np.testing.assert_allclose(contours.levels, [-0.8, -0.5, -0.2, 0.2, 0.5, 0.8])
    for level, path, colour in zip(contours.levels, contours.get_paths(), contours.get_edgecolor(), strict=True):
        red, _, blue = to_rgb(colour)
        assert (red > blue) == (level > 0)
        assert np.all(path.vertices.mean(0) < 10) == (level > 0)


def test_beside_shows_the_picture_and_the_relevance_apart() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (2, 6, 8, 3), np.uint8)
    figure = made({"x": images()}).heatmap(photo, style="beside", columns=1)
    assert len(figure.axes) == 2 * 2 + 1  # and the colour bar
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), photo[1] / 255)
    np.testing.assert_allclose(relevance_image(figure, 3).get_array(), images()[1].sum(0), atol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        np.full((6, 8, 3), 51, np.uint8),
        np.full((6, 8), 51, np.uint8),
        np.full((3, 12, 16), 0.2, np.float32),
        torch.full((3, 6, 8), 0.2),
        Image.new("RGB", (80, 60), (51, 51, 51)),
    ],
)
def test_pictures_of_every_kind_lie_below(image: Any) -> None:
    figure = made({"x": images(1)}, logits=LOGITS[:1]).heatmap(image, style="contour")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), 0.2, atol=1e-6)


def test_without_a_picture_the_input_lies_below_in_its_own_range() -> None:
    seen = images()
    figure = made({"x": images()}, {"x": seen}).heatmap(style="beside")
    shown = figure.axes[2].images[0].get_array()
    expected = (seen[1] - seen[1].min()) / np.ptp(seen[1])
    np.testing.assert_allclose(shown, np.moveaxis(expected, 0, -1), atol=1e-6)
    assert len(made({"x": images()}).heatmap(False).axes[0].images) == 1


def test_rows_and_targets_make_a_grid() -> None:
    relevance = np.random.default_rng(0).normal(size=(2, 3, 1, 4, 4))
    logits = np.concatenate([LOGITS, LOGITS[:1]])
    explanation = made(
        {"x": relevance}, {"x": np.ones((3, 1, 4, 4))}, logits, explains={"classes": [0, 2]}, target=[0, 2]
    )
    figure = explanation.heatmap(rows=[2, 0])
    drawn = [relevance_image(figure, part).get_array() for part in range(4)]
    expected = [relevance[0, 2], relevance[1, 2], relevance[0, 0], relevance[1, 0]]
    np.testing.assert_allclose(drawn, [values[0] for values in expected])


def test_smoothing_keeps_the_sum_and_the_symmetry() -> None:
    values = np.random.default_rng(0).normal(size=(9, 11))
    wide = smoothed(values, 1.5, (0, 1))
    assert wide.sum() == pytest.approx(values.sum())
    assert np.abs(wide).max() < np.abs(values).max()
    impulse = np.zeros(21)
    impulse[10] = 1
    spread = smoothed(impulse, 2.0, (0,))
    np.testing.assert_allclose(spread, spread[::-1])
    assert spread[12] / spread[10] == pytest.approx(np.exp(-0.5))
    assert smoothed(values, 0, (0, 1)) is values
    figure = made({"x": images()}).heatmap(smooth=1.5)
    assert "smoothed, σ = 1.5 pixels" in figure.get_suptitle()


@pytest.mark.parametrize("name", SUITED)
def test_the_colour_maps_offered_diverge_evenly(name: str) -> None:
    assert diverging(name).name == name


@pytest.mark.parametrize("name", ["jet", "viridis", "seismic", "bwr", "hot", "turbo", "twilight", "gray"])
def test_colour_maps_that_mislead_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name!r} does not diverge evenly"):
        diverging(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "hot"}, "no style 'hot': choose overlay, contour, beside, plain"),
        ({"colours": "none"}, "no colour map 'none'"),
        ({"percentile": 0}, "percentile is above 0"),
        ({"limit": -1.0}, "limit is a relevance above 0"),
        ({"smooth": -1}, "Smoothing is a width"),
        ({"rows": [5]}, r"rows \[5\] cannot be drawn: the batch has rows 0 to 1"),
        ({"input": "z"}, "no relevance of 'z' here, but of x"),
        (
            {"image": np.zeros((6, 8))},
            r"^1 picture cannot lie under 2 rows: choose a row with rows=, or give one for each of the 2 rows drawn\.$",
        ),
        (
            {"image": [np.zeros((6, 8))] * 3, "rows": 1},
            r"^3 pictures cannot lie under 1 row: give one for row 1, which is drawn, or for each of the batch's 2\.$",
        ),
        ({"image": np.zeros((2, 8, 8, 3))}, "The image is 8 × 8, relevance 8 × 6"),
        ({"image": np.zeros((2, 6, 8, 7))}, "An image is"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        made({"x": images()}).heatmap(**options)
    assert "\n" not in str(raised.value)


def test_relevance_that_is_no_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs relevance of an image, .*; here is x \[2, 5\]"):
        made({"x": np.ones((2, 5))}).heatmap()
    inside = made({"block": images(), "x": -images()}, {"x": images()}).heatmap(style="plain")
    np.testing.assert_allclose(relevance_image(inside).get_array(), -images()[0].sum(0), atol=1e-6)
    with pytest.raises(InputError, match="Relevance of a and of b can be drawn: choose with input="):
        made({"a": images(), "b": images()}).heatmap()


def test_a_picture_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = made({"x": images()}).heatmap()
    picture.save(tmp_path / "p.png", dpi=50)
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == tuple(round(50 * inches) for inches in picture.get_size_inches())
    with pytest.raises(InputError, match="not written as 'xyz'"):
        picture.save(tmp_path / "p.xyz")
    with pytest.raises(FileNotFoundError):
        picture.save(tmp_path / "nowhere" / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_without_matplotlib_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return found(name, *args)

    for name in [key for key in sys.modules if key.startswith("lrp_compiler.pictures")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    explanation = made({"x": images()})
    with pytest.raises(LrpError, match=r"Pictures need matplotlib: pip install 'lrp-compiler\[plots\]'"):
        explanation.heatmap()
    assert "<table>" in explanation._repr_html_()
    assert explanation._repr_html_().count("<img") == 2  # images, one for each row
    assert "<img" not in made({"x": np.ones((2, 5))})._repr_html_()
    monkeypatch.undo()
    importlib.import_module("lrp_compiler.pictures.figure")


def test_a_notebook_shows_heatmaps_and_what_was_explained() -> None:
    shown = made({"x": images()})._repr_html_()
    assert "data:image/png;base64," in shown
    assert "<td>class 1</td><td>5</td>" in shown
    words = made({"x": np.ones((2, 5))}, composite={"name": "<script>"})._repr_html_()
    assert "<img" not in words
    assert "<script>" not in words
    assert "&lt;script&gt;" in words
    assert repr(made({"x": images()})).startswith("Explanation(relevance of x: float32[2, 3, 6, 8]; composite")
