"""The atlas: the channels that are drawn, what stands beside them, which crop, and that its words can be read."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.base.errors import InputError
from lrp_compiler.pictures.atlas import looked_at
from lrp_compiler.pictures.layers import told_apart
from lrp_compiler.runtime import OnnxExplainer

BATCH = {0: torch.export.Dim("batch")}
SIDE = 12


class Spots(nn.Module):
    """Three channels, each its own colour; class 0 adds them up with weights 1, 2 and −3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 2, bias=False)
        self.conv.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        self.classes.weight.data = torch.tensor([[1.0, 2.0, -3.0], [0.0, 1.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.conv(x).relu().sum((2, 3)))


def samples() -> Tensor:
    """Six pictures with a spot of three by three for each channel, at a place of its own; red grows, blue shrinks."""
    x = torch.zeros(6, 3, SIDE, SIDE)
    for number in range(6):
        for channel in range(3):
            at = 3 * ((number + channel) % 4)
            x[number, channel, at : at + 3, :3] = [1.0 + number, 2.0, 6.0 - number][channel] / 9
    return x


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def spots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    options: dict[str, Any] = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "target": "index"}
    explainer = lrp.compile(Spots().eval(), (samples()[:2],), masks="conv", observe="conv", **options)
    if request.param == "torch":
        return explainer
    path = tmp_path_factory.mktemp("files") / "m.lrp.onnx"
    explainer.to_onnx(path)
    return OnnxExplainer(path)


def asked(explainer: Any, **options: Any) -> Any:
    x: Any = samples().numpy() if isinstance(explainer, OnnxExplainer) else samples()
    found = concepts.references(explainer, [x[:4], x[4:]], "conv", k=3, target=0)
    return concepts.atlas(explainer, x[:1], found, x, **{"target": 0, "smooth": 0.0, "crop": 0.5, **options})


def test_rows_are_the_channels_with_most_relevance_and_their_samples(spots: Any) -> None:
    figure = asked(spots, channels=2, count=2)

    # Of the first picture red has 1, green 4 and blue −18; of its size each channel's share.
    captions = [text.get_text() for text in figure.texts if text.get_text().startswith("channel")]
    assert captions == ["channel 1: 17.4% of Σ|relevance|", "channel 0: 4.3% of Σ|relevance|"]
    assert len(figure.axes) == 2 * 3 * 2  # rows, pictures, relevance below

    # Red most of all in the last pictures, whose spot lies in rows 3 × (5 mod 4) and 3 × (4 mod 4).
    below = [axis for axis in figure.axes if len(axis.images) == 2]
    for axis, number in zip(below[4:], (5, 4), strict=True):
        heat = np.asarray(axis.images[1].get_array())
        spot = 3 * (number % 4)
        np.testing.assert_allclose(heat[spot : spot + 3, :3], (1.0 + number) / 9, rtol=1e-6)
        assert np.count_nonzero(heat) == 9
        top, bottom = sorted(axis.get_ylim())
        assert top <= spot
        assert bottom >= spot + 3
        assert bottom - top == SIDE / 2


def test_the_explained_picture_and_those_of_samples_are_drawn_as_given(spots: Any, tmp_path: Path) -> None:
    shown = [Image.new("RGB", (48, 48), (number, 0, 0)) for number in range(6)]

    figure = asked(
        spots, channels=[2], count=2, picture=shown[0], pictures=lambda n: shown[n], without=[0], labels=["a", "b"]
    )
    figure.save(tmp_path / "atlas.png")

    drawn = [np.asarray(axis.images[0].get_array()) for axis in figure.axes[::2]]
    assert [picture.shape for picture in drawn] == [(48, 48, 3)] * 3
    assert [round(float(picture[0, 0, 0]) * 255) for picture in drawn] == [
        0,
        5,
        4,
    ]  # blue speaks against it, there least
    assert "a (class 0)" in figure.texts[0].get_text()
    assert Image.open(tmp_path / "atlas.png").size[0] == 640


def test_words_are_read_on_a_phone_and_lie_over_nothing(spots: Any) -> None:
    figure = asked(
        spots, channels=3, title="a title of very many letters, which is so long that it takes more than one line"
    )
    figure.canvas.draw()

    words = [text.get_window_extent() for text in figure.texts]
    parts = [axis.get_window_extent() for axis in figure.axes]
    width, height = figure.get_size_inches()
    assert all(text.get_fontsize() / 72 / width * 390 >= 9 for text in figure.texts)  # CSS pixels on a phone
    assert not any(one.overlaps(other) for one, other in combinations(words, 2))
    assert not any(word.overlaps(part) for word in words for part in parts)
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in words + parts)
    assert height > width


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": None}, "target"),
        ({"channels": 0}, "channels is how many channels"),
        ({"channels": [3]}, "channels is numbers of channels from 0 to 2"),
        ({"channels": []}, "channels is numbers of channels"),
        ({"count": 0}, "count is how many samples"),
        ({"crop": 2}, "crop is a share"),
        ({"picture": np.zeros((4, 9))}, "crop it as the network saw it"),
        ({"pictures": []}, "samples hold no number"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], said: str, spots: Any) -> None:
    with pytest.raises(InputError, match=said):
        asked(spots, **options)


def test_more_than_one_row_is_refused(spots: Any) -> None:
    x: Any = samples().numpy() if isinstance(spots, OnnxExplainer) else samples()
    found = concepts.references(spots, [x], "conv", k=1, target=0)
    with pytest.raises(InputError, match="An atlas is of one row"):
        concepts.atlas(spots, x[:2], found, x, target=0)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.floats(-4, 4)),
    st.floats(0.05, 1.0),
)
def test_the_square_holds_most_of_what_speaks_for_it(relevance: np.ndarray, share: float) -> None:
    left, top, right, bottom = looked_at(relevance, share)

    side, (height, width) = right - left, relevance.shape
    assert side == bottom - top == max(1, round(share * min(height, width)))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    positive = np.maximum(relevance, 0)
    every = [
        positive[y : y + side, x : x + side].sum() for y in range(height - side + 1) for x in range(width - side + 1)
    ]
    np.testing.assert_allclose(positive[top:bottom, left:right].sum(), max(every), atol=1e-9)


@pytest.mark.parametrize(
    ("names", "pattern", "short"),
    [
        (["layer.0.attention", "layer.11.attention"], "layer.*.attention", ["0", "11"]),
        (["0", "1"], "", ["0", "1"]),
        (["softmax", "softmax_1"], "", ["softmax", "softmax_1"]),
        (["a.0.b", "a.1.c"], "", ["a.0.b", "a.1.c"]),
        (["a.0", "a.0.b"], "", ["a.0", "a.0.b"]),
        (["only"], "only", [""]),
    ],
)
def test_names_of_layers_are_told_apart(names: list[str], pattern: str, short: list[str]) -> None:
    assert told_apart(names) == (pattern, short)
