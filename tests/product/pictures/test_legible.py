"""Words in pictures can be read: no line through them, no number broken, nothing over anything; and they say enough."""

import io
import re
import warnings
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from support.explanations import images, made
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.run import Explained
from lrp_compiler.pictures.common import wrapped
from lrp_compiler.pictures.figure import families
from lrp_compiler.pictures.token_rows import Piece, TokenRow
from lrp_compiler.pictures.tokens import Tokens

VALUES = {f"features.{at}": np.full((2, 4), total / 4) for at, total in enumerate((5.0, -0.6, 4.9, 1e-5, 5.1))}


def boxes(figure: Any, what: list[Any]) -> list[Any]:
    figure.savefig(io.BytesIO())  # which lays it out
    return [artist.get_window_extent() for artist in what]


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("row", [0, 1])
def test_no_line_is_drawn_through_the_numbers_of_layers(parts: bool, row: int) -> None:
    figure = made({"x": images()}).layers(VALUES, parts=parts, row=row)
    (axis,) = figure.axes
    words, lines = boxes(figure, list(axis.texts)), boxes(figure, [*axis.lines, *axis.patches])

    assert not any(word.overlaps(line) for word in words for line in lines)
    assert not any(one.overlaps(other) for one, other in combinations(words, 2))
    assert [text.get_text() for text in axis.texts[:5]] == ["5", "-0.6", "4.9", "1e-05", "5.1"]


@pytest.mark.parametrize("options", [{}, {"style": "beside"}, {"rows": 0}, {"title": "two\nlines"}])
def test_captions_of_heatmaps_lie_over_nothing(options: dict[str, Any]) -> None:
    relevance = images() * 1e-7
    figure = made({"x": relevance}, {"x": images()}, np.array([[9.15, -1.0], [1.234e-5, -2.0]])).heatmap(
        labels=["a name of very many letters and of several words, which takes two lines", "b"], **options
    )
    titles = [axis.title for axis in figure.axes if axis.get_title()]
    found = boxes(figure, [figure._suptitle, *titles])

    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert all(box.y1 <= figure.bbox.y1 and box.y0 >= 0 for box in found)


def test_no_number_is_broken() -> None:
    text = "difference of logits -1.234e-05, Σ relevance -9.87e-06 = input_ids -4.5e-07 + pixel-values -9.4e-06"
    for width in range(24, 90):
        lines = wrapped(text, width)
        assert " ".join(lines) == text
        assert max(map(len, lines)) <= width
        numbers = [number for line in lines for number in re.findall(r"(?<=\S )-[\d.e-]+", line)]
        assert numbers == ["-1.234e-05", "-9.87e-06", "-4.5e-07", "-9.4e-06"]
    assert wrapped("one\n\ntwo", 20) == ["one", "two"]


@pytest.mark.parametrize(
    ("put", "share", "said"),
    [
        (9.15, 0.0009, "9.149, 99.99 %, went elsewhere: to biases, constants, stabilisers"),
        (-2.0, -0.5, "-1.5, 75 %, went elsewhere: to biases, constants, stabilisers"),
        (1.0, -2.0, "3 went elsewhere: to biases, constants, stabilisers"),
        (9.15, 8.0, ""),
        (None, 8.0, ""),
        (0.0, 0.0, ""),
    ],
)
def test_what_is_in_no_input_is_said_to_be_elsewhere(put: float | None, share: float, said: str) -> None:
    assert Explained(0, None, 0, "class 0", put, {"x": share}, put=put).elsewhere == said


def test_books_say_who_absorbed_it() -> None:
    """z = w·x + b: the last bias takes 8 of the logit, in the layer called `classes`."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.classes = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.classes(self.first(x).flatten(1))

    net = Net().eval()
    with torch.no_grad():
        net.first.weight.fill_(1.0)
        net.classes.weight.fill_(0.25)
        net.classes.bias.fill_(8.0)
    x = torch.tensor([[[[1.0, 2.0], [3.0, -2.0]]]])
    explainer = lrp.compile(net, (x,), composite=lrp.composites.epsilon(1e-9))

    bare, told = explainer(x).heatmap(), explainer(x).heatmap(books=explainer.audit(x))

    assert "8, 88.89 %, went elsewhere" in bare.axes[0].get_title()
    assert "elsewhere" not in told.axes[0].get_title()
    assert "of all rows' 9: bias 8 (most at classes: 8)" in told.get_suptitle()
    assert "inputs 1" in told.get_suptitle()
    assert "went elsewhere" in explainer(x).image().caption


def test_shares_of_a_sum_are_no_logits() -> None:
    class Shares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs() / x.abs().sum(1, keepdim=True)

    x = torch.randn(2, 4)
    (case, _) = lrp.compile(Shares().eval(), (x,), composite="epsilon")(x).explained()

    assert case.caption.startswith("probability 0.")
    assert made({"x": images()}).explained()[0].kind == "logit"


def test_a_long_text_is_a_page_and_no_ribbon() -> None:
    pieces = tuple(Piece(f" word{at % 7}", (-1) ** at / 3, (at,), True, False) for at in range(600))
    case = Explained(0, None, 1, "class 1", 5.0, {"input_ids": 1.0})

    def size(count: int, width: float | None = None) -> tuple[float, float]:
        figure = Tokens((TokenRow(case, "composite", pieces[:count], {}, 1.0),)).figure(width=width)
        return tuple(figure.get_size_inches())

    width, height = size(600)
    assert width > 10
    assert height <= 1.5 * width
    assert size(20)[0] == 10
    assert size(60, width=3)[0] == 3


SENTENCE = "a name of very many letters and of several words, which would take more lines than there are of it, or four"


@pytest.mark.parametrize("style", ["overlay", "beside"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6])
def test_captions_of_many_parts_keep_to_their_own(style: str, rows: int) -> None:
    pixels = np.random.default_rng(0).normal(size=(rows, 3, 6, 6)) * 1e-3
    figure = made({"x": pixels}, {"x": pixels}, np.tile([30.0, 1.0], (rows, 1))).heatmap(
        labels=[SENTENCE, "b"], style=style
    )
    titles = [axis.title for axis in figure.axes if axis.get_title()]
    found = boxes(figure, [figure._suptitle, *titles])

    assert len(titles) == rows
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in found)
    for title in titles:
        assert re.search(r"(… \(class 0\)|or four \(class 0\))$", " ".join(title.get_text().split("\n")[:2]))


@pytest.mark.parametrize("shape", [(3, 1, 64), (3, 20, 30), (1, 20, 30)])
def test_captions_of_sounds_keep_to_their_own(shape: tuple[int, ...]) -> None:
    sound = np.random.default_rng(0).normal(size=shape)
    logits = np.tile([30.0, 1.0], (len(sound), 1))
    figure = made({"x": sound}, {"x": sound}, logits).spectrogram(labels=[SENTENCE, "b"])
    found = boxes(figure, [figure._suptitle, *(axis.title for axis in figure.axes if axis.get_title())])

    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in found)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize(
    "pattern", ["model.encoder.layers.{}.attention.output", "{}_a_name_of_very_many_letters_and_words{}"]
)
@pytest.mark.parametrize("depth", [1, 3, 12])
def test_words_beside_heads_lie_inside_and_over_nothing(pattern: str, depth: int, count: int) -> None:
    values = {pattern.format(at, at): np.ones((2, count, 4)) for at in range(depth)}
    figure = made({"x": images()}).heads(values)
    axis, bar = figure.axes
    found = boxes(figure, [axis.yaxis.label, axis.xaxis.label, figure._suptitle, *axis.get_xticklabels()])
    found += boxes(figure, bar.get_xticklabels())
    found = [box for box in found if box.width]

    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 and box.x0 >= 0 for box in found)


def row_of(*shares: float) -> Tokens:
    case = Explained(0, None, 1, "class 1", 2.0, {"x": sum(shares)})
    pieces = tuple(Piece(f"word{at}", share, (at,), True, False) for at, share in enumerate(shares))
    return Tokens((TokenRow(case, "composite epsilon", pieces, {}, max(map(abs, shares)) or 1.0),))


def test_relevance_that_is_all_zero_is_said_to_be() -> None:
    zero = made({"x": images() * 0}, {"x": images()})
    sound = made({"x": np.zeros((1, 64))}, {"x": np.ones((1, 64))}, np.array([[1.0, 2.0]]))
    one = made({"x": images() * np.array([0.0, 1.0])[:, None, None, None]}, {"x": images()})

    assert "all relevance is 0" in zero.heatmap().get_suptitle()
    assert "all relevance is 0" in sound.spectrogram().get_suptitle()
    assert zero.image().caption.endswith("all relevance is 0")
    assert "all relevance is 0" in row_of(0.0, 0.0).html()
    assert "all relevance is 0" in row_of(0.0, 0.0).figure().axes[0].texts[0].get_text()
    first, second = (axis.get_title() for axis in one.heatmap().axes[:2])
    assert first.endswith("all relevance is 0")
    assert "colours end at ±" in second
    assert "colours end at ±3 " not in row_of(3.0, -1.0).html()
    assert row_of(3.0, -1.0).html().count("colours end at ±3") == 1


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_relevance_that_no_colour_stands_for_is_refused(odd: float) -> None:
    values, sound = images(), np.ones((2, 64), np.float32)
    values[1, 0, 2, 3] = sound[1, 5] = odd
    seen, heard = made({"x": values}, {"x": images()}), made({"x": sound}, {"x": np.ones((2, 64))})
    depth = {"layer": np.array([[[1.0]], [[odd]]])}

    drawn: tuple[Callable[[int], Any], ...] = (
        lambda row: seen.heatmap(rows=row),
        lambda row: seen.image(row=row),
        lambda row: heard.spectrogram(rows=row),
        lambda row: seen.layers(depth, row=row),
        lambda row: seen.heads(depth, row=row),
    )
    for draw in drawn:
        draw(0)
        with pytest.raises(lrp.LrpError, match=r"1 of \d+ values of relevance are NaN or infinite.*explainer\.audit"):
            draw(1)


def test_letters_that_the_font_lacks_are_taken_from_one_that_has_them() -> None:
    """DejaVu Sans has neither the sector nor the bracket; the serifed and STIX, which come with matplotlib, do."""
    assert families("relevance Σ ±") == ("sans-serif",)
    assert len(families("⌔ ⎴")) == 3
    explanation = made({"x": images()}, {"x": images()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explanation.heatmap(labels=["⌔", "⎴"]).savefig(io.BytesIO())
    with pytest.warns(lrp.LrpWarning, match="No font of this machine has “\U000e0101”"):
        explanation.heatmap(labels=["b", "a \U000e0101"]).savefig(io.BytesIO())


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1)])
def test_images_of_one_line_are_drawn_but_for_contours(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, *shape))
    explanation = made({"x": pixels}, {"x": pixels})
    for style in ("overlay", "beside", "plain"):
        explanation.heatmap(style=style).savefig(io.BytesIO())
    assert explanation.image().pixels.shape == (*shape, 3)
    with pytest.raises(lrp.LrpError, match="Contours are lines between pixels"):
        explanation.heatmap(style="contour")
