"""Pictures of relevance: the numbers behind the colours, captions, tokens, and clear errors."""

import builtins
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from support.explanations import LABELS, LOGITS, images, made
from support.hand_made import doubler
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.explanation import Explanation
from lrp_compiler.pictures.common import BLUE, RED, STRONGEST, smoothed
from lrp_compiler.pictures.figure import SUITED, diverging
from lrp_compiler.runtime import OnnxExplainer


def texts(figure: Any) -> str:
    return "\n".join(
        [figure.get_suptitle()]
        + [axis.get_title() for axis in figure.axes]
        + [text.get_text() for axis in figure.axes for text in axis.texts]
    )


# ── what was explained ───────────────────────────────────────────────────────────────────────────────────────────────


def test_each_row_says_its_class_logit_and_relevance() -> None:
    relevance = images()
    first, second = made({"x": relevance}).explained(LABELS)
    assert (first.target, first.name, first.logit) == (1, "dog (class 1)", 5.0)
    assert (second.target, second.name, second.logit) == (0, "cat (class 0)", 7.0)
    assert first.relevance["x"] == pytest.approx(relevance[0].astype(float).sum())
    assert second.caption == f"logit 7, Σ relevance {relevance[1].astype(float).sum():.4g}"


@pytest.mark.parametrize(
    ("explains", "choices", "expected"),
    [
        ({"classes": 2}, {}, [(2, 2.0), (2, -3.0)]),
        ({"classes": {"pair": [1, 2]}}, {}, [((1, 2), 3.0), ((1, 2), 3.0)]),
        ({"classes": "index"}, {"target": np.array([0, 2])}, [(0, 1.0), (2, -3.0)]),
        ({"classes": [0, {"pair": [1, 0]}]}, {}, [(0, 1.0), ((1, 0), 4.0), (0, 7.0), ((1, 0), -7.0)]),
        ({"classes": "index"}, {"target": np.array([[0, 2], [1, 1]])}, [(0, 1.0), (1, 5.0), (2, -3.0), (1, 0.0)]),
    ],
)
def test_targets_of_every_kind_have_their_logits(explains: dict, choices: dict, expected: list) -> None:
    several = len(expected) == 4
    relevance = np.ones((2, 2, 5) if several else (2, 5))
    explanation = made({"x": relevance}, {"x": np.ones((2, 5))}, choices=choices, explains=explains, target="…")
    assert [(case.target, case.logit) for case in explanation.explained()] == expected
    assert [case.sum for case in explanation.explained()] == [5.0] * len(expected)


SEQUENCE = np.arange(24.0).reshape(2, 4, 3)


@pytest.mark.parametrize(
    ("position", "choices", "inputs", "logits"),
    [
        (None, {}, {}, SEQUENCE[:, -1]),
        ("last", {}, {}, SEQUENCE[:, -1]),
        (1, {}, {}, SEQUENCE[:, 1]),
        ({"slice": [1, 3, None]}, {}, {}, SEQUENCE[:, 1] + SEQUENCE[:, 2]),
        ("sum", {}, {}, SEQUENCE[:, 0] + SEQUENCE[:, 1] + SEQUENCE[:, 2] + SEQUENCE[:, 3]),
        ("index", {"position": np.array([0, 2])}, {}, np.stack([SEQUENCE[0, 0], SEQUENCE[1, 2]])),
        (
            "last-unpadded",
            {},
            {"attention_mask": np.array([[1, 1, 0, 0], [0, 1, 1, 1]])},
            np.stack([SEQUENCE[0, 1], SEQUENCE[1, 3]]),
        ),
    ],
)
def test_the_logits_are_those_of_the_explained_position(
    position: Any, choices: dict, inputs: dict, logits: np.ndarray
) -> None:
    explanation = made({}, inputs, SEQUENCE, choices, explains={"classes": "argmax", "position": position})
    np.testing.assert_array_equal(explanation.run.logits(), logits)


def test_the_classes_of_a_map_are_its_second_dim() -> None:
    z = np.arange(24.0).reshape(1, 2, 3, 4)
    explanation = made({}, {}, z, explains={"classes": 1, "position": [{"slice": [None, None, None]}, 2]})
    np.testing.assert_array_equal(explanation.run.logits(), z[:, :, :, 2].sum(2))


def test_a_function_or_a_seed_has_no_class_and_no_logit() -> None:
    (case, _) = made({"x": np.ones((2, 5))}, target="function").explained()
    assert (case.target, case.logit, case.name) == (None, None, "a function of the outputs")
    (case, _) = made({"x": np.ones((2, 5))}, seed="tensor").explained()
    assert (case.logit, case.caption) == (None, "Σ relevance 5")


def test_relevance_of_several_inputs_is_stated_apart_and_together() -> None:
    case = made({"a": np.ones((2, 3)), "b": np.full((2, 4), 0.5)}).explained()[0]
    assert case.caption == "logit 5, Σ relevance 5 = a 3 + b 2"


def test_missing_labels_are_said_to_be_missing() -> None:
    with pytest.raises(InputError, match="no name for class 1"):
        made({"x": images()}).explained(["cat"])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """One run in torch and in onnxruntime, three targets a row."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    explainer = lrp.compile(
        Small().eval(), (x,), composite="epsilon-plus", target="index", dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    path = tmp_path_factory.mktemp("pictures") / "m.lrp.onnx"
    explainer.to_onnx(path)
    targets = torch.tensor([[0, 1], [2, 3], [4, 4]])
    return explainer(x, target=targets), OnnxExplainer(path)(x.numpy(), target=targets.numpy())


def test_torch_and_onnxruntime_say_the_same(both: tuple[Any, Any]) -> None:
    one, other = (explanation.explained() for explanation in both)
    assert [case.target for case in one] == [0, 2, 4, 1, 3, 4]
    output = both[0].output.double()
    assert [case.logit for case in one] == [float(output[case.row, case.target]) for case in one]
    for case, again in zip(one, other, strict=True):
        assert (case.row, case.number, case.target, case.name) == (again.row, again.number, again.target, again.name)
        assert case.logit == pytest.approx(again.logit, rel=1e-5)
        assert case.sum == pytest.approx(again.sum, rel=5e-6)
        assert case.sum == pytest.approx(float(both[0].relevance["x"][case.number, case.row].double().sum()))


def test_a_run_is_kept_by_reference(both: tuple[Any, Any]) -> None:
    x = np.ones((2, 3), np.float32)
    explainer = OnnxExplainer(doubler())
    explanation = explainer(x)
    assert explanation.run.inputs["x"] is x
    assert explanation.run.outputs["y"] is explanation.output
    assert explanation.run.about is explainer.about
    assert both[0].run.inputs["x"].shape == (2, 3, 8, 8)


def test_pictures_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "m.lrp.onnx").write_bytes(doubler(["batch", 3, 4, 4], classes=None, target="function"))
    script = """if True:
        import sys
        sys.modules["torch"] = None
        import numpy as np
        from lrp_compiler.runtime import OnnxExplainer
        explanation = OnnxExplainer(sys.argv[1])(np.ones((2, 3, 4, 4), "f"))
        assert explanation.heatmap()._repr_png_().startswith(bytes([137, 80, 78, 71]))
        assert "image/png" in explanation._repr_html_()
    """
    command = [sys.executable, "-c", script, str(tmp_path / "m.lrp.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ── heatmaps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_spectrogram_has_its_relevance_above_and_over_time_below() -> None:
    relevance = np.random.default_rng(0).normal(size=(2, 4, 30))
    sound = np.random.default_rng(1).normal(size=(2, 4, 30)).astype(np.float32)
    figure = made({"mel": relevance}, {"mel": sound}).spectrogram(rate=10, percentile=100, labels=LABELS)
    heard, drawn = figure.axes[0].images
    np.testing.assert_array_equal(heard.get_array(), sound[0])
    np.testing.assert_array_equal(drawn.get_array(), relevance[0])
    assert drawn.get_clim()[1] == np.abs(relevance[0]).max()
    assert list(drawn.get_extent()) == [0, 3.0, 0, 4]
    up, down = (shape.get_paths()[0].vertices for shape in figure.axes[1].collections)
    moments = relevance[0].sum(0)
    assert up[:, 1].max() == pytest.approx(moments.max())
    assert down[:, 1].min() == pytest.approx(moments.min())
    assert f"dog (class 1)\nlogit 5, Σ relevance {relevance[0].sum():.4g}"[:30] in texts(figure)


def test_what_is_cut_off_is_stated() -> None:
    relevance = np.ones((2, 4, 30))
    sound = relevance.astype(np.float32)
    figure = made({"mel": relevance}, {"mel": sound}).spectrogram(rate=10, seconds=2.0)
    assert figure.axes[0].images[1].get_array().shape == (4, 20)
    assert "behind what is shown: 40" in texts(figure)
    turned = made({"mel": relevance.swapaxes(1, 2)}, {"mel": sound.swapaxes(1, 2)}).spectrogram(time_axis=-2)
    assert turned.axes[0].images[1].get_array().shape == (4, 30)


def test_relevance_of_samples_is_summed_over_windows() -> None:
    rate = 1000
    time = np.arange(500) / rate
    tone = np.sin(2 * np.pi * 125 * time).astype(np.float32)[np.newaxis]
    relevance = np.zeros((1, 500))
    relevance[0, 200:210], relevance[0, 300] = 0.5, -2.0
    figure = made({"wave": relevance}, {"wave": tone}, LOGITS[:1]).spectrogram(rate=rate)
    (heard,) = figure.axes[0].images  # nothing on top: samples have no frequency
    assert heard.get_array().shape == (21, 50)
    assert heard.get_array()[:, 25].argmax() == 125 * 40 // rate
    up, down = (shape.get_paths()[0].vertices for shape in figure.axes[1].collections)
    assert up[up[:, 1].argmax()] == pytest.approx([0.205, 5.0])
    assert down[down[:, 1].argmin()] == pytest.approx([0.305, -2.0])


def test_what_is_no_sound_is_refused() -> None:
    with pytest.raises(InputError, match="needs relevance of sound"):
        made({"ids": np.ones((2, 5))}, {"ids": np.ones((2, 5), np.int64)}).spectrogram()


# ── layers and heads ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_are_bars_of_their_sums_beside_the_logit() -> None:
    values = np.random.default_rng(0).normal(size=(2, 2, 7))
    inside = {"block.0": values[0], "block.1": values[1]}
    explanation = made({"x": np.ones((2, 5)), **inside}, {"x": np.ones((2, 5))})
    for figure in (explanation.layers(row=1), explanation.layers(inside, row=1)):
        (axis,) = figure.axes
        assert [bar.get_width() for bar in axis.patches] == pytest.approx(list(values[:, 1].sum(-1)))
        assert [label.get_text() for label in axis.get_yticklabels()] == ["block.0", "block.1"]
        assert "class 0: logit 7, Σ relevance 5" in figure.get_suptitle()
        assert any(line.get_xdata()[0] == 7.0 for line in axis.lines)
    apart = explanation.layers(row=1, parts=True).axes[0].patches
    assert [bar.get_width() for bar in apart[:2]] == pytest.approx(
        [values[0, 1].clip(min=0).sum(), values[0, 1].clip(max=0).sum()]
    )


def test_heads_are_a_map_of_layers_and_heads() -> None:
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 5, 4))  # layers, batch, heads, sequence, size
    inside = {"0": values[0], "1": torch.from_numpy(values[1])}
    explanation = made({"x": np.ones((2, 5))})
    expected = values[:, 1].sum((2, 3))
    image = explanation.heads(inside, row=1).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), expected)
    assert image.get_clim() == (-np.abs(expected).max(), np.abs(expected).max())
    joined = {name: np.asarray(array).swapaxes(1, 2).reshape(2, 5, 12) for name, array in inside.items()}
    image = explanation.heads(joined, row=1, axis=-1, count=3).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), expected)


def test_layers_that_do_not_fit_are_refused() -> None:
    explanation = made({"x": np.ones((2, 5))})
    with pytest.raises(InputError, match="compile with wrt=, naming modules"):
        explanation.layers()
    with pytest.raises(InputError, match="the batch must be in front"):
        explanation.layers({"a": np.ones(1)}, row=1)
    with pytest.raises(InputError, match="no 4 heads in axis -1"):
        explanation.heads({"a": np.ones((2, 5, 6))}, axis=-1, count=4)
    with pytest.raises(InputError, match="same number of heads"):
        explanation.heads({"a": np.ones((2, 3)), "b": np.ones((2, 4))})
    with pytest.raises(InputError, match="Target 1 cannot be drawn"):
        explanation.layers({"a": np.ones((2, 3))}, target=1)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────

WORDPIECES = ["[PAD]", "[CLS]", "[SEP]", "the", "shop", "##ping", "<script>", "s", "##s", "##e", "e", "\x1b[31m", "."]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(dict(zip(WORDPIECES, range(len(WORDPIECES)), strict=True)), unk_token="s"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    return tokenizer


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["ĠMar", "ta", "Ġlives", "<|end|>"]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *words[:3]])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(words[3], special=True)])
    return tokenizer


def spaces() -> Tokenizer:
    vocabulary = [("<unk>", 0.0), ("▁Mar", -1.0), ("ta", -1.0), ("▁lives", -1.0), ("▁", -2.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def wrapped(tokenizer: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    known = special if tokenizer.token_to_id("[CLS]") is not None else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **known)


FEW = ["[UNK]", "the", "plot", "is", "dull", "and", "##ly", "##s"]


def few_pieces(prefix: str = "##", decoded: bool = True) -> Tokenizer:
    """A vocabulary with hardly a piece that goes on with a word."""
    words = {token.replace("##", prefix): number for number, token in enumerate(FEW)}
    model = models.WordPiece(words, unk_token="[UNK]", continuing_subword_prefix=prefix)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix=prefix) if decoded else None
    return tokenizer


def words_alone() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(FEW)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def of_letters() -> Tokenizer:
    """BPE with the end of a word written into its last piece, of two pieces each."""
    text = "the plot is dull and"
    ends = [f"{word[-1]}</w>" for word in text.split()]
    starts = [word[:-1] for word in text.split()]
    letters = list(dict.fromkeys([*"".join(starts), *starts, *ends]))
    merges = [(part[:at], part[at]) for part in starts for at in range(1, len(part))]
    letters += [part[:at] for part in starts for at in range(1, len(part)) if part[:at] not in letters]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(letters))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.BPEDecoder()
    return tokenizer


@pytest.mark.parametrize("by_transformers", [False, True], ids=["tokenizers", "transformers"])
@pytest.mark.parametrize(
    "tokenizer",
    [few_pieces(), few_pieces("@@"), few_pieces(decoded=False), words_alone(), of_letters()],
    ids=["wordpiece", "another prefix", "without a decoder", "words", "word ends"],
)
def test_words_are_those_that_the_text_has_whatever_the_vocabulary_holds(
    tokenizer: Tokenizer, by_transformers: bool
) -> None:
    """The words of the text are known; a vocabulary may hold few pieces, or none of a word's own."""
    ids = np.array([tokenizer.encode("the plot is dull and").ids])
    shares = np.ones(ids.shape)
    given = wrapped(tokenizer) if by_transformers else tokenizer

    (row,) = made({"input_ids": shares}, {"input_ids": ids}, logits=LOGITS[:1]).tokens(given, words=True)

    assert [text.strip() for text, _ in row] == ["the", "plot", "is", "dull", "and"]
    assert "the plot is dull and" in re.sub(r"\s+", " ", re.sub(r"\x1b\[[\d;]*m", "", row.ansi()))


@pytest.mark.parametrize("prefix", ["##", "@@"])
def test_pieces_of_few_are_put_together(prefix: str) -> None:
    tokenizer = few_pieces(prefix)
    ids = np.array([[tokenizer.token_to_id(token) for token in ("the", "plot", f"{prefix}s", "dull", f"{prefix}ly")]])

    (row,) = made({"input_ids": np.ones(ids.shape)}, {"input_ids": ids}, logits=LOGITS[:1]).tokens(
        tokenizer, words=True
    )

    assert list(row) == [("the", 1.0), ("plots", 2.0), ("dullly", 2.0)]


IDS = np.array([[1, 3, 4, 5, 6, 2], [1, 3, 12, 2, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
SHARES = np.array([[0.5, -0.25, 1.0, 2.0, -4.0, 0.125], [1.0, 2.0, -1.0, 0.5, 0.0, 0.25]])


def sentence(**metadata: Any) -> Explanation[np.ndarray]:
    return made({"input_ids": SHARES}, {"input_ids": IDS, "attention_mask": MASK}, **metadata)


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
def test_tokens_are_pairs_row_by_row_without_padding(wrap: Any) -> None:
    first, second = sentence().tokens(wrap(wordpiece()))
    assert list(first) == [
        ("[CLS]", 0.5),
        ("the", -0.25),
        ("shop", 1.0),
        ("##ping", 2.0),
        ("<script>", -4.0),
        ("[SEP]", 0.125),
    ]
    assert list(second) == [("[CLS]", 1.0), ("the", 2.0), (".", -1.0), ("[SEP]", 0.5)]
    assert second.left_out == {"padding": 0.25}
    assert first[1:3] == [("the", -0.25), ("shop", 1.0)]


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_tokens_and_what_is_left_out_add_up_to_the_relevance(wrap: Any, words: bool, special: bool) -> None:
    rows = sentence().tokens(wrap(wordpiece()), words=words, special=special)
    for row, shares in zip(rows, SHARES, strict=True):
        assert sum(share for _, share in row) + sum(row.left_out.values()) == pytest.approx(shares.sum())
        assert ("[CLS]" in dict(row)) == special
        assert row.case.sum == shares.sum()


def test_pieces_of_a_word_are_added_up() -> None:
    (first, _) = sentence().tokens(wordpiece(), words=True)
    assert ("shopping", 3.0) in list(first)
    assert first.pieces[2].ids == (4, 5)


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
def test_bytes_are_read_as_text(wrap: Any) -> None:
    tokenizer = byte_level()
    number = tokenizer.token_to_id
    written = ["ĠMar", "ta", "Ġlives", "Ċ", "Ã", "©", "<|end|>"]
    ids = np.array([[number(token) for token in written]])
    explanation = made({"input_ids": np.arange(1.0, 8.0)[np.newaxis]}, {"input_ids": ids}, LOGITS[:1])
    (row,) = explanation.tokens(wrap(tokenizer))
    assert [token for token, _ in row] == [" Mar", "ta", " lives", "\n", "Ã", "©", "<|end|>"]
    (row,) = explanation.tokens(wrap(tokenizer), words=True)
    assert list(row) == [(" Marta", 3.0), (" lives", 3.0), ("\n", 4.0), ("é", 11.0), ("<|end|>", 7.0)]


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
def test_a_lower_line_is_a_space(wrap: Any) -> None:
    explanation = made({"ids": np.array([[1.0, 2.0, 4.0]])}, {"ids": np.array([[1, 2, 3]])}, LOGITS[:1])
    (row,) = explanation.tokens(wrap(spaces()))
    assert list(row) == [(" Mar", 1.0), ("ta", 2.0), (" lives", 4.0)]
    (row,) = explanation.tokens(wrap(spaces()), words=True)
    assert list(row) == [(" Marta", 3.0), (" lives", 4.0)]


def test_features_are_added_up_and_embeddings_need_their_ids() -> None:
    shares = np.stack([SHARES, 2 * SHARES], -1)
    kept = made({"input_ids": shares}, {"input_ids": IDS}).tokens(wordpiece())
    assert kept[0][0] == ("[CLS]", 1.5)
    embedded = made({"inputs_embeds": shares}, {"inputs_embeds": shares})
    assert embedded.tokens(wordpiece(), ids=IDS)[0][0] == ("[CLS]", 1.5)
    with pytest.raises(InputError, match="needs relevance of tokens"):
        embedded.tokens(wordpiece())
    with pytest.raises(InputError, match=r"ids have shape \[2, 5\], relevance has \[6\] a row"):
        embedded.tokens(wordpiece(), ids=IDS[:, :5])


def test_a_predicted_token_names_the_target() -> None:
    logits = np.zeros((2, 6, 13))
    logits[:, -1, 4] = 3.0
    rows = sentence(logits=logits).tokens(wordpiece())
    assert rows[0].caption.startswith("“shop” (class 4): logit 3, Σ relevance")
    tagged = sentence(logits=np.ones((2, 6, 5))).tokens(wordpiece())  # fewer classes than tokens: tags
    assert tagged[0].caption.startswith("class 0: ")
    assert sentence(logits=logits).tokens(wordpiece(), labels=str)[0].caption.startswith("4 (class 4)")


def test_several_targets_are_rows_of_their_own() -> None:
    explanation = made(
        {"input_ids": np.stack([SHARES, -SHARES])},
        {"input_ids": IDS},
        explains={"classes": [0, {"pair": [1, 0]}]},
        target=[0, (1, 0)],
    )
    rows = explanation.tokens(wordpiece(), labels=LABELS, rows=0)
    assert [row.case.name for row in rows] == ["cat (class 0)", "dog − cat (classes 1 − 0)"]
    assert rows[0][0][1] == -rows[1][0][1] == 0.5


def test_html_is_escaped_and_holds_the_numbers() -> None:
    rows = sentence(composite={"name": "<i>mine</i>"}).tokens(wordpiece(), labels=lambda _: "<b>fish</b>")
    page = rows.html()
    assert page == rows._repr_html_()
    assert not re.search("<(script|b|i)>", page)
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;fish&lt;/b&gt; (class 1): logit 5, Σ relevance -0.625" in page
    assert "composite &lt;i&gt;mine&lt;/i&gt;, target argmax" in page
    assert ">+0.12</span>" in page
    assert ">+0.12</span>" not in rows.html(numbers=False)
    strongest = f"rgba({', '.join(map(str, BLUE))}, {STRONGEST:.3f})".replace(" ", "")
    assert f'title="-4, id 6" style="background:{strongest}' in page
    assert rows[0]._repr_html_().count("<p") == 2


def test_html_with_a_path_is_a_whole_page_in_that_file(tmp_path: Path) -> None:
    rows = sentence().tokens(wordpiece(), labels=LABELS)

    for name, one in (("all", rows), ("first", rows[0])):
        fragment = one.html()
        page = one.html(tmp_path / f"{name}.html", title="a <b> c")
        assert (tmp_path / f"{name}.html").read_text(encoding="utf-8") == page
        assert page.startswith("<!doctype html>")
        assert fragment in page
        assert page.count("<title>a &lt;b&gt; c</title>") == page.count("<body") == page.count("</html>") == 1
        assert one.html() == fragment  # and nothing else is written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.html", "first.html"]
    assert "+0.12" not in rows.html(str(tmp_path / "bare.html"), numbers=False).replace('title="+0.12', "")


@pytest.mark.parametrize("path", [False, 3, ["page.html"]])
def test_html_takes_a_path_and_nothing_else(path: Any) -> None:
    for one in (sentence().tokens(wordpiece()), sentence().tokens(wordpiece())[0]):
        with pytest.raises(InputError, match=r"^path is the path of a file, or None, not "):
            one.html(path)


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2's contrast ratio of two sRGB colours in 0 … 255."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [part / 3294.6 if part <= 10.31 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("end", [RED, BLUE])
@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("page", "ink"), [((255,) * 3, (0,) * 3), ((17,) * 3, (238,) * 3)])
def test_tokens_are_legible_on_light_and_dark(end: tuple, strength: float, page: tuple, ink: tuple) -> None:
    opacity = STRONGEST * strength
    behind = tuple(opacity * part + (1 - opacity) * below for part, below in zip(end, page, strict=True))
    assert contrast(ink, behind) > 4.5


def test_a_terminal_gets_colours_and_nothing_that_steers_it() -> None:
    ids = np.array([[11, 3]])
    explanation = made({"input_ids": np.array([[2.0, -2.0]])}, {"input_ids": ids}, LOGITS[:1])
    shown = explanation.tokens(wordpiece(), labels=lambda _: "\x1b[31m").ansi()
    codes = re.findall(r"\x1b\[[\d;]*m", shown)
    assert set(codes) <= {"\x1b[0m", "\x1b[38;2;0;0;0m", *(code for code in codes if code.startswith("\x1b[48;2;"))}
    assert r"\x1b[31m" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert plain.splitlines()[2] == r"\x1b[31m the"
    expected = [round(255 + STRONGEST * (part - 255)) for part in RED]
    assert f"\x1b[48;2;{';'.join(map(str, expected))}m" in shown


def test_colours_of_tokens_end_where_they_are_told() -> None:
    strongest = sentence().tokens(wordpiece())[0]
    assert [strongest.strength(piece) for piece in strongest.pieces] == [0.125, -0.0625, 0.25, 0.5, -1.0, 0.03125]
    shared = sentence().tokens(wordpiece(), limit=2.0)
    assert [row.limit for row in shared] == [2.0, 2.0]
    assert shared[0].strength(shared[0].pieces[4]) == -1.0
    half = sentence().tokens(wordpiece(), percentile=50)[0]
    assert half.limit == np.median(np.abs(SHARES[0]))


def test_tokens_can_be_drawn() -> None:
    figure = sentence().tokens(wordpiece(), words=True).figure("A title")
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said[:2] == [
        "A title",
        "composite epsilon-plus, target argmax; red speaks for the target, blue against it; "
        "colours are scaled for each row",
    ]
    assert {"shopping", "+3", "<script>", "-4"} <= set(said)
    colours = {text: patch.get_facecolor() for text, patch in zip(said[4::2], figure.axes[0].patches, strict=False)}
    assert len(colours) > 0
    figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_tokens_of_what_is_none_are_refused() -> None:
    with pytest.raises(InputError, match="A tokenizer of transformers or of tokenizers is wanted, not str"):
        sentence().tokens("bert")
    with pytest.raises(InputError, match=r"needs relevance of tokens, \[batch, sequence\]; here is x"):
        made({"x": images()}).tokens(wordpiece())
    with pytest.raises(InputError, match="choose with input="):
        made({"a": SHARES, "b": SHARES}, {"a": IDS, "b": IDS}).tokens(wordpiece())
    assert len(made({"a": SHARES, "b": SHARES}, {"a": IDS, "b": IDS}).tokens(wordpiece(), input="b")) == 2
