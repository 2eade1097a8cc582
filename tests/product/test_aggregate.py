"""A map summed over values of the network is what torch makes of the relevance observed at them, resized by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.check.verify import verify
from lrp_compiler.cli import main
from lrp_compiler.runtime import OnnxExplainer

BATCH = torch.export.Dim("batch")
SIDES = {name: torch.export.Dim(name, min=15, max=99) for name in ("height", "width")}
SIZES = ({0: BATCH, 2: SIDES["height"], 3: SIDES["width"]},)
PIXELS = torch.randn(3, 3, 31, 23, generator=torch.Generator().manual_seed(1))
"""Another batch and other sizes than are compiled with open ones, no multiples of those inside: 15 × 11 and 7 × 5."""


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 5, 3, stride=2), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x))))).mean((2, 3))  # type: ignore[no-any-return]


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.second = nn.Embedding(17, 8), nn.Linear(8, 6), nn.Linear(6, 6)
        self.score, self.classes = nn.Linear(6, 1), nn.Linear(6, 5)

    def forward(self, words: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(self.table(words)))))
        weight = torch.softmax(self.score(hidden).squeeze(-1), -1)
        return self.classes((hidden * weight[..., None]).sum(1))  # type: ignore[no-any-return]


def image(**options: Any) -> lrp.Explainer:
    torch.manual_seed(0)
    options = {"composite": "epsilon-plus", "dynamic_shapes": ({0: BATCH},)} | options
    return lrp.compile(Image().eval(), (PIXELS[:2],), **options)


def image_of_any_size(**options: Any) -> lrp.Explainer:
    torch.manual_seed(0)
    options = {"composite": "epsilon-plus", "dynamic_shapes": SIZES} | options
    return lrp.compile(Image().eval(), (torch.randn(2, 3, 21, 18),), **options)


def words(**options: Any) -> lrp.Explainer:
    torch.manual_seed(0)
    sizes = ({0: BATCH, 1: torch.export.Dim("sequence", max=30)},)
    return lrp.compile(Words().eval(), (torch.randint(0, 17, (2, 4)),), target=1, dynamic_shapes=sizes, **options)


def by_hand(relevance: dict[str, Tensor], own: str = "x") -> Tensor:
    """Relevance of the image and of the values, `[…, batch, channels, height, width]`, as one map."""
    total = relevance[own].sum(-3)
    for name, R in relevance.items():
        if name != own:
            coarse = R.sum(-3).reshape(1, -1, *R.shape[-2:])
            fine = functional.interpolate(coarse, size=total.shape[-2:], mode="bilinear")
            area = total.shape[-2] * total.shape[-1]
            total = total + fine.reshape(total.shape) * (R.shape[-2] * R.shape[-1] / area)
    return total


def in_all_runtimes(explainer: lrp.Explainer, x: Tensor, folder: Path) -> dict[str, np.ndarray]:
    """Each one's map of the first input."""
    explainer.save(folder / "model.lrp.pt2")
    explainer.to_onnx(folder / "model.lrp.onnx")
    name = explainer.about.inputs[0].name
    with OnnxExplainer(folder / "model.lrp.onnx") as file:
        found = file(x.numpy()).aggregate[name]
    loaded = lrp.load(folder / "model.lrp.pt2")
    return {
        "torch": explainer(x).aggregate[name].numpy(),
        "pt2": loaded(x).aggregate[name].numpy(),
        "onnxruntime": found,
    }


def close(found: np.ndarray, wanted: Tensor, share: float = 1e-5) -> bool:
    return found.shape == tuple(wanted.shape) and np.abs(found - wanted.numpy()).max() <= share * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(("target", "made"), [("argmax", image), ([0, 2], image_of_any_size)])
def test_images(target: Any, made: Callable[..., lrp.Explainer], tmp_path: Path) -> None:
    """At odd sizes, fixed and open ones, with one target and several."""
    wanted = by_hand(image(target=target, observe=["a", "b"])(PIXELS).relevance)
    explainer = made(target=target, aggregate=["a", "b"])
    assert list(explainer(PIXELS).relevance) == ["x"]
    for runtime, found in in_all_runtimes(explainer, PIXELS, tmp_path).items():
        assert close(found, wanted), runtime


@pytest.mark.slow
def test_each_value_counts_once() -> None:
    """However many patterns name it, and whether it is observed as well."""
    explainer = image(observe="b", aggregate=["a", "*", "b"])
    wanted = by_hand(image(observe=["a", "b", "c"])(PIXELS).relevance)
    explanation = explainer(PIXELS)
    assert close(explanation.aggregate["x"].numpy(), wanted)
    assert list(explanation.relevance) == ["x", "b"]


def test_the_sum_stays() -> None:
    """Where sizes are whole multiples: what is added is as much as every value has."""
    R = lrp.compile(Pooled().eval(), (PIXELS[:, :, :24, :20],), composite="epsilon-plus", observe="pool")
    found = lrp.compile(Pooled().eval(), (PIXELS[:, :, :24, :20],), composite="epsilon-plus", aggregate="pool")
    shares = R(PIXELS[:, :, :24, :20]).relevance
    total = sum(one.sum((1, 2, 3)) for one in shares.values())
    torch.testing.assert_close(found(PIXELS[:, :, :24, :20]).aggregate["x"].sum((1, 2)), total)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.pool(x) ** 2).mean((2, 3))


@pytest.mark.slow
def test_sequences(tmp_path: Path) -> None:
    """Of tokens: features are summed, and what has none is taken as it is."""
    tokens = torch.randint(0, 17, (3, 7))
    R = words(observe=["first", "second", "softmax"])(tokens).relevance
    assert R["softmax"].dim() == 2
    wanted = R["words"] + R["first"].sum(-1) + R["second"].sum(-1) + R["softmax"]
    explainer = words(aggregate=["first", "second", "softmax"])
    for runtime, found in in_all_runtimes(explainer, tokens, tmp_path).items():
        assert close(found, wanted), runtime


@pytest.mark.heavy
def test_half_precision() -> None:
    """Channels are summed in float32, whatever relevance is held in."""
    torch.manual_seed(0)
    model, x = Image().eval().half(), PIXELS.half()
    options: dict[str, Any] = {"composite": "epsilon-plus", "dynamic_shapes": ({0: BATCH},)}
    found = lrp.compile(model, (x[:2],), aggregate=["a", "b"], **options)(x).aggregate["x"]
    observed = lrp.compile(model, (x[:2],), observe=["a", "b"], **options)(x).relevance
    assert found.dtype == torch.float32
    assert close(found.numpy(), by_hand({name: R.float() for name, R in observed.items()}))


@pytest.mark.slow
def test_with_reductions_and_more_observed(tmp_path: Path) -> None:
    """The map stays whole beside reduced relevance, and when more is observed later, of a file as well."""
    explainer = image(aggregate=["a", "b"])
    wanted = explainer(PIXELS).aggregate["x"]
    explainer.save(tmp_path / "model.lrp.pt2")
    more = lrp.load(tmp_path / "model.lrp.pt2").observe("c")(PIXELS)
    smaller = image(aggregate=["a", "b"], reduce=["channels", "float16"])
    assert close(more.aggregate["x"].numpy(), wanted)
    assert list(more.relevance) == ["x", "c"]
    for one in (smaller, smaller.observe("c")):
        explanation = one(PIXELS)
        assert close(explanation.aggregate["x"].numpy(), wanted)
        assert explanation.relevance["x"].dtype == torch.float16
        assert "absorbed" in explanation.sums


def test_books_know_nothing_of_it() -> None:
    books, without = image(aggregate="a").audit(PIXELS), image().audit(PIXELS)
    assert (books.seed, books.inputs) == (without.seed, without.inputs)


@pytest.mark.heavy
def test_from_a_cache(tmp_path: Path) -> None:
    """Graphs are found again whatever is summed over them."""
    first, again = (image(aggregate="a", cache=tmp_path)(PIXELS).aggregate["x"] for _ in range(2))
    assert close(again.numpy(), first)
    assert not image(cache=tmp_path)(PIXELS).aggregate


@pytest.mark.slow
def test_command_line(tmp_path: Path) -> None:
    """`--aggregate` of a program, and the map among what `explain` writes; the file passes its checks."""
    program = torch.export.export(Image().eval(), (PIXELS[:2],), dynamic_shapes=({0: BATCH},))
    torch.export.save(program, tmp_path / "model.pt2")
    np.save(tmp_path / "x.npy", PIXELS.numpy())
    for ending in ("onnx", "pt2"):
        path, results = tmp_path / f"model.lrp.{ending}", tmp_path / f"{ending}.npz"
        arguments = ["--composite", "epsilon-plus", "--aggregate", "a", "--aggregate", "b", "-o", str(path)]
        assert main(["compile", str(tmp_path / "model.pt2"), *arguments]) == 0
        assert main(["run", str(path), "--input", str(tmp_path / "x.npy"), "-o", str(results)]) == 0
        wanted = lrp.compile(tmp_path / "model.pt2", composite="epsilon-plus", observe=["a", "b"])(PIXELS).relevance
        with np.load(results) as found:
            assert close(found["aggregate.x"], by_hand(wanted))
    assert verify(tmp_path / "model.lrp.onnx", against=tmp_path / "model.pt2").passed


@pytest.mark.slow
def test_heatmap() -> None:
    pytest.importorskip("matplotlib")
    explanation = image(aggregate="a")(PIXELS)
    picture = explanation.heatmap(aggregate=True)
    assert "summed over a" in picture.get_suptitle()
    with pytest.raises(InputError, match="compile with aggregate="):
        image()(PIXELS).heatmap(aggregate=True)


class Pair(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(x + y).flatten(2).mean(2)


@pytest.mark.slow
def test_refusals() -> None:
    """Each in one sentence that names what does not fit."""
    with pytest.raises(InputError, match=r"input 'x': 'mean' has 2 dims with its batch, and the input has 4"):
        image(aggregate=["a", "mean"])
    with pytest.raises(InputError, match=r"aggregate='d' names no module and no node"):
        image(aggregate="d")
    with pytest.raises(InputError, match=r"'sum_\w+' has not the input's length"):
        words(aggregate="sum_*")
    pixels = torch.randn(2, 3, 8, 8)
    with pytest.raises(InputError, match=r"'x', 'y' is returned: name one by wrt"):
        lrp.compile(Pair().eval(), (pixels, pixels), aggregate="relu")
    assert "x" in lrp.compile(Pair().eval(), (pixels, pixels), wrt="x", aggregate="relu")(pixels, pixels).aggregate
    larger = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="'0' is of more places than the input"):
        lrp.compile(larger.eval(), (pixels,), aggregate="0")
    with pytest.raises(InputError, match="aggregate"):
        image(aggregate=3)


def test_in_two_parts(tmp_path: Path) -> None:
    """The relevance part of `split` returns the map behind relevance; what an explainer says of itself names it."""
    explainer = image(aggregate="a")
    forward, relevance = explainer.split()
    kept = forward(PIXELS)[len(forward.meta["outputs"]) :]
    assert relevance.meta["relevance"] == ["x", "aggregate.x"]
    torch.testing.assert_close(relevance(*kept)[1], explainer(PIXELS).aggregate["x"])
    assert "relevance of x, aggregate.x;" in repr(explainer)
