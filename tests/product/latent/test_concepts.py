"""Conditions, channels and references, on nets whose numbers are known by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.branches import PAST, Branches, X, through
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.base.errors import FormatError, InputError
from lrp_compiler.runtime import OnnxExplainer

BATCH = {0: torch.export.Dim("batch")}
PATHS = ["hidden", "second"]


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def branches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "target": "index"}
    explainer = lrp.compile(Branches().eval(), (X,), masks=PATHS, observe=PATHS, **options)
    if request.param == "torch":
        return explainer
    path = tmp_path_factory.mktemp("files") / "m.lrp.onnx"
    explainer.to_onnx(path)
    return OnnxExplainer(path)


def of(explainer: Any, x: Tensor = X) -> Any:
    return x.numpy() if isinstance(explainer, OnnxExplainer) else x


@pytest.mark.sampled(4)
def test_conditions_are_ands_of_layers_and_ors_of_channels(branches: Any) -> None:
    conditions: list[dict[str, Any]] = [
        {"hidden": [0], "y": 0},
        {"hidden": 0, "second": [1], "y": 0},
        {"hidden": [0, 1], "second": -1, "y": 0},
        {"second": np.array([0.5, 0.0]), "y": 0},
        {"y": 0},
        {"hidden": [], "y": 0},
    ]
    units = [([1, 0, 0], [1, 1]), ([1, 0, 0], [0, 1]), ([1, 1, 0], [0, 1]), ([1, 1, 1], [0.5, 0]), ([1, 1, 1], [1, 1])]
    units += [([0, 0, 0], [1, 1])]

    found = concepts.conditional(branches, of(branches), conditions)
    named = concepts.conditional(branches, {"x": of(branches)}, conditions[:1])

    expected = [[a + b for a, b in zip(through(*one), PAST, strict=True)] for one in units]  # type: ignore[arg-type]
    np.testing.assert_allclose(np.asarray(found.relevance["x"]), [[row] * 2 for row in expected], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(named.relevance["x"]), [[expected[0]] * 2], rtol=1e-6)
    assert len(found.explained()) == 2 * len(conditions)


def test_what_goes_past_a_layer_is_dropped_in_the_conditions_that_name_it(tmp_path: Path) -> None:
    masks = [lrp.Mask(path, exclude_parallel=True) for path in PATHS]
    options: dict[str, Any] = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "target": "index"}
    explainer = lrp.compile(Skipped().eval(), (X,), masks=masks, **options)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    conditions: list[dict[str, Any]] = [
        {"hidden": [0], "y": 0},
        {"second": [1], "y": 0},
        {"hidden": 0, "second": [1], "y": 0},
        {"hidden": None, "y": 0},
        {"y": 0},
    ]

    # hidden [3, 2, 0] has 9, 2 and 0 by way of second, and 3, 2, 0 past it; x itself has 4 and −2 past both.
    by_second, past_second = np.array([[3.0, 6.0], [2.0, 0.0]]), np.array([[1.0, 2.0], [2.0, 0.0]])
    expected = [by_second[0] + past_second[0], [1.0 + 2.0, 2.0], [1.0, 2.0], None, None]
    whole = by_second.sum(0) + past_second.sum(0) + PAST
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as onnx:
        for each in (explainer, onnx):
            together = np.asarray(concepts.conditional(each, of(each), conditions).relevance["x"])
            for one, row, known in zip(conditions, together, expected, strict=True):
                alone = np.asarray(concepts.conditional(each, of(each), [one]).relevance["x"])[0]
                np.testing.assert_allclose(row, alone, rtol=1e-6)
                np.testing.assert_allclose(row, [whole if known is None else known] * 2, rtol=1e-6)


class Skipped(Branches):
    """With a way from hidden past second, too."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x).relu()
        return self.last(self.second(hidden).relu()) + hidden.sum(1, keepdim=True) + self.skip(x)


def test_what_else_a_call_takes_goes_with_conditions(tmp_path: Path) -> None:
    net, x = Branches().double().eval(), X.double()
    options: dict[str, Any] = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "masks": PATHS, "seed": "tensor"}
    explainer = lrp.compile(net, (x,), **options)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    weights = np.array([0.1, 0.3, 0.7])  # none of them a number of float32
    by_hand = 0.1 * np.array(through([1, 0, 0], [1, 1])) + 0.3 * np.array(through([0, 1, 0], [1, 1])) + PAST

    with OnnxExplainer(tmp_path / "m.lrp.onnx") as onnx:
        for each, given, seed in ((explainer, x, 26 * torch.ones(2, 1)), (onnx, x.numpy(), np.full((2, 1), 26.0))):
            found = concepts.conditional(each, given, [{"hidden": weights}], seed=seed).relevance["x"]
            np.testing.assert_allclose(np.asarray(found), [[2 * by_hand] * 2], rtol=1e-6)
            called = each(given, seed=seed, masks={"hidden": weights}).relevance["x"]
            np.testing.assert_allclose(np.asarray(found)[0], np.asarray(called), rtol=1e-14)
            for wrong in ({"masks": {}}, {"target": 0}):
                with pytest.raises(InputError, match=f"{next(iter(wrong))}= is what conditions say"):
                    concepts.conditional(each, given, [{"hidden": 0}], **wrong)


def test_classes_alone_need_no_list_of_channels() -> None:
    options: dict[str, Any] = {"composite": "attnlrp", "dynamic_shapes": (BATCH,)}
    explainer = lrp.compile(Branches().eval(), (X,), target="index", masks=lrp.Mask("hidden", "all"), **options)

    found = concepts.conditional(explainer, X, [{"y": 0}, {"y": -1}]).relevance["x"]

    torch.testing.assert_close(found, explainer(X, target=0).relevance["x"].expand(2, 2, 2))
    with pytest.raises(InputError, match="takes no masks and no class, so conditions choose nothing"):
        concepts.conditional(lrp.compile(Branches().eval(), (X,), **options), X, [{}])


def test_channels_share_the_relevance_of_their_layer(branches: Any) -> None:
    shares = concepts.channels(branches, of(branches), "hidden", target=0)
    plain = concepts.channels(branches, of(branches), "hidden", target=0, normalise=False)
    masked = concepts.channels(
        branches, of(branches), "hidden", target=0, normalise=False, masks={"second": np.eye(2)[:, None]}
    )

    np.testing.assert_allclose(shares, [[9 / 11, 2 / 11, 0.0]] * 2, rtol=1e-6)
    np.testing.assert_allclose(plain, [[9.0, 2.0, 0.0]] * 2, rtol=1e-6)
    np.testing.assert_allclose(masked, [[[6.0, 0.0, 0.0]] * 2, [[3.0, 2.0, 0.0]] * 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ([], "conditions is a list of dicts, one at least"),
        ([{"hiden": [0], "y": 0}], "names 'hiden', of which this explainer takes no mask.*takes hidden, second"),
        ([{"hidden": [3], "y": 0}], "Channel 3 is out of range: 'hidden' has 3, 0 to 2"),
        ([{"hidden": np.ones(4), "y": 0}], r"weights of 'hidden' have shape \[4\], but it has 3 channels"),
        ([{"hidden": "first", "y": 0}], "is numbers of channels, or weights"),
        ([{"hidden": [[0], [1, 2]], "y": 0}], "is numbers of channels, or weights"),
        ([{"hidden": [0]}], "Condition 0 names no class"),
        ([{"hidden": [0], "y": 0.5}], "class 'y' is a whole number, not 0.5"),
    ],
)
def test_a_condition_that_does_not_fit(branches: Any, conditions: list[Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        concepts.conditional(branches, of(branches), conditions)
    with pytest.raises(InputError, match="compile with observe="):
        concepts.channels(branches, of(branches), "skip", target=0)


class Bright(nn.Module):
    """Two channels, each its input's, and their largest pixels added up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.conv.weight.data = torch.eye(2).reshape(2, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().flatten(1).sum(1, keepdim=True)


def data() -> list[Tensor]:
    """Seven samples in batches of two, of which the brightness is the number of the sample, at one pixel."""
    batches = []
    for start in range(0, 8, 2):
        x = torch.full((min(2, 7 - start), 2, 4, 4), 0.01)
        for row in range(len(x)):
            number = start + row
            x[row, 0, number % 4, 1] = 1.0 + number
            x[row, 1, 3, 3] = 8.0 - number
        batches.append(x)
    return batches


@pytest.fixture(scope="module")
def bright() -> lrp.Explainer:
    options = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "observe": "conv"}
    return lrp.compile(Bright().eval(), (data()[0],), **options)


@pytest.mark.parametrize("by", ["relevance", "activation"])
def test_references_are_the_samples_that_most_use_a_channel(bright: lrp.Explainer, by: Any, tmp_path: Path) -> None:
    found = concepts.references(bright, data(), "conv", by=by, k=3)

    assert found.samples.tolist() == [[6, 5, 4], [0, 1, 2]]
    assert found.seen == 7
    np.testing.assert_allclose(found.places[0, 0], [(6 % 4 + 0.5) / 4, 1.5 / 4])
    np.testing.assert_allclose(found.places[1], [[3.5 / 4, 3.5 / 4]] * 3)
    if by == "activation":
        np.testing.assert_allclose(found.scores, [[7.0, 6.0, 5.0], [8.0, 7.0, 6.0]])
    else:  # relevance is the value itself here: each pixel's share of all of them
        np.testing.assert_allclose(found.scores[0, 0], (7.0 + 0.15) / (7.0 + 2.0 + 0.3), rtol=1e-6)

    part = concepts.references(bright, data()[:2], "conv", by=by, k=3)
    for name in ("part.npz", "part.parquet"):
        part.save(tmp_path / name)
        before = concepts.References.load(tmp_path / name)
        again = concepts.references(bright, data(), "conv", by=by, k=3, resume=before)
        for field, value in vars(found).items():
            np.testing.assert_array_equal(getattr(again, field), value)
    found.save(tmp_path / "found.parquet", ids=found.samples.astype(str))
    row = pq.read_table(tmp_path / "found.parquet").to_pylist()[3]
    assert row == {
        "channel": 1,
        "rank": 0,
        "sample": 0,
        "score": found.scores[1, 0],
        "place": [0.875, 0.875],
        "id": "0",
    }


@pytest.mark.sampled(4)
def test_references_that_cannot_be_found(bright: lrp.Explainer, branches: Any, tmp_path: Path) -> None:
    part = concepts.References("conv", "relevance", np.zeros((2, 8)), np.zeros((2, 8)), np.zeros((2, 8, 2)), seen=3)
    for given, sentence in (
        ({"by": "size"}, "by is 'relevance' or 'activation'"),
        ({"k": 0}, "k is how many samples"),
        ({"resume": part, "k": 3}, "resume holds 8 references"),
        ({"resume": part}, "resume ends at sample 3, inside a batch"),
    ):
        with pytest.raises(InputError, match=sentence):
            concepts.references(bright, data(), "conv", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="data holds no samples"):
        concepts.references(bright, [], "conv")
    with pytest.raises(InputError, match="no value that this explainer observes"):
        bright.activation("relu", data()[0])
    if isinstance(branches, OnnxExplainer):
        with pytest.raises(InputError, match="An ONNX file returns no activations"):
            concepts.references(branches, [of(branches)], "hidden", by="activation")
    pq.write_table(pa.table({"channel": [1]}), tmp_path / "y.parquet")
    for name in ("x.npz", "x.parquet", "y.parquet"):
        if name[0] == "x":
            (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(FormatError, match="holds no references, or is damaged"):
            concepts.References.load(tmp_path / name)
        with pytest.raises(FileNotFoundError):
            concepts.References.load(tmp_path / f"absent.{name}")


def test_references_of_values_without_places(tmp_path: Path) -> None:
    none = concepts.References(
        "hidden", "relevance", np.ones((3, 2), int), np.ones((3, 2)), np.zeros((3, 2, 0)), seen=2
    )
    for name in ("r.npz", "r.parquet"):
        none.save(tmp_path / name)
        found = concepts.References.load(tmp_path / name)
        assert found.places.shape == (3, 2, 0)
        np.testing.assert_array_equal(found.samples, none.samples)
