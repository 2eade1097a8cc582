"""A dictionary spliced into a network: the output stays, its features are values like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.check.verify import verify
from lrp_compiler.runtime import OnnxExplainer

BATCH = {0: torch.export.Dim("batch")}


class Block(nn.Module):
    """A residual block: what leaves it is a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.out = nn.Linear(4, 6), nn.Sequential(Block(), Block()), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.first(x)))


class Dictionary(nn.Module):
    """A sparse autoencoder: ReLU features, a bias before and behind."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(6, 12), nn.Linear(12, 6)

    def encode(self, x: Tensor) -> Tensor:
        return self.into(x - self.back.bias).relu()

    def decode(self, features: Tensor) -> Tensor:
        return self.back(features)


class TopK(Dictionary):
    """Of all features the three largest."""

    def encode(self, x: Tensor) -> Tensor:
        every = super().encode(x)
        values, places = every.topk(3, -1)
        return torch.zeros_like(every).scatter(-1, places, values)


def example(kind: type[Dictionary] = Dictionary, dtype: torch.dtype = torch.float64) -> tuple[Net, Dictionary, Tensor]:
    torch.manual_seed(3)
    return Net().eval().to(dtype), kind().eval().to(dtype), torch.randn(2, 4, dtype=dtype)


def spliced(net: Net, dictionary: Dictionary, x: Tensor, **options: Any) -> lrp.Explainer:
    options = {"composite": "attnlrp", "target": 1, "dynamic_shapes": (BATCH,), **options}
    return lrp.compile(net, (x,), splice={"blocks.0": dictionary}, **options)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", [Dictionary, TopK])
def test_features_and_remainder_share_the_relevance_of_the_value(kind: type[Dictionary]) -> None:
    net, dictionary, x = example(kind)
    plain = lrp.compile(net, (x,), composite="attnlrp", target=1, observe="blocks.0", form="both")(x)
    explainer = spliced(net, dictionary, x, observe=["blocks.0.*", "blocks.0.features"], form="both")

    found = explainer(x)

    torch.testing.assert_close(found.output, net(x), rtol=0, atol=1e-12)
    features, remainder = found.relevance["blocks.0.features"], found.relevance["blocks.0.remainder"]
    torch.testing.assert_close(
        features.sum(-1) + remainder.sum(-1), plain.relevance["blocks.0"].sum(-1), rtol=1e-9, atol=1e-12
    )
    # By hand: the coefficient of a feature is that of the value, projected on its direction.
    g = plain.coefficients["blocks.0"]
    value = torch.zeros(0)
    with torch.no_grad():
        value = net.blocks[0](net.first(x))
        activations = dictionary.encode(value)
        expected = activations * (g @ dictionary.back.weight)
        missed = value - activations @ dictionary.back.weight.T
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(remainder, g * missed, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_features_are_masked_and_seeded_like_any_value(tmp_path: Path) -> None:
    net, dictionary, x = example(dtype=torch.float32)
    masks = ["blocks.0.features", lrp.Mask("blocks.0.remainder")]
    explainer = spliced(net, dictionary, x, masks=masks, seeds=lrp.Put("blocks.0.features", "unit"))
    whole = explainer(x).relevance["x"]

    # Feature by feature, and what they miss: nothing else goes through the value.
    each = torch.cat([torch.eye(12), torch.zeros(1, 12)]).unsqueeze(1)
    missed = torch.cat([torch.zeros(12, 6), torch.ones(1, 6)]).unsqueeze(1)
    given = {"blocks.0.features": each, "blocks.0.remainder": missed}
    parts = explainer(x, masks=given).relevance["x"]
    torch.testing.assert_close(parts.sum(0), whole, rtol=1e-6, atol=1e-7)

    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    explainer.save(tmp_path / "m.lrp.pt2")
    loaded = lrp.load(tmp_path / "m.lrp.pt2")
    torch.testing.assert_close(loaded(x, masks=given).relevance["x"], parts)
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as runtime:
        ours = runtime(x.numpy(), masks={path: mask.numpy() for path, mask in given.items()}).relevance["x"]
    np.testing.assert_allclose(ours, parts.numpy(), rtol=5e-6, atol=1e-7)
    books = loaded.audit(x, masks={"blocks.0.features": each[0]})
    assert abs(books.error) < 1e-9
    assert "masked" in books.absorbed

    alone = spliced(net, dictionary, x, target=None, seeds=lrp.Put("blocks.0.features", "unit"))
    one = alone(x, seeds={"blocks.0.features": torch.eye(12)[4]}).relevance["x"]
    assert one.shape == x.shape


class Convolved(nn.Module):
    """A dictionary of a map, whose channels come first: its decoder takes maps alone."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = nn.Conv2d(4, 9, 1), nn.Conv2d(9, 4, 1)

    def encode(self, x: Tensor) -> Tensor:
        return self.into(x).relu()

    def decode(self, features: Tensor) -> Tensor:
        return self.back(features)


def test_a_dictionary_whose_channels_come_first() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)).double().eval()
    dictionary, x = Convolved().double().eval(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    options: dict[str, Any] = {"composite": "attnlrp", "target": 1, "dynamic_shapes": (BATCH,)}
    observe = ["1.features", "1.remainder"]

    explainer = lrp.compile(net, (x,), splice={"1": dictionary}, masks="1.features", observe=observe, **options)
    found = explainer(x)

    torch.testing.assert_close(found.output, net(x), rtol=0, atol=1e-12)
    with torch.no_grad():
        value = net[:2](x)
        g = net[3].weight[1].reshape(1, 4, 3, 3)
        weight = dictionary.back.weight[:, :, 0, 0]
        features = dictionary.encode(value)
        missed = value - torch.einsum("bfhw,cf->bchw", features, weight)
        expected = features * torch.einsum("bchw,cf->bfhw", g, weight)
    torch.testing.assert_close(found.relevance["1.features"], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.relevance["1.remainder"], g * missed, rtol=1e-9, atol=1e-12)
    each = torch.eye(9).unsqueeze(1)
    parts = explainer(x, masks={"1.features": each}).relevance["input"]
    none = explainer(x, masks={"1.features": torch.zeros(9)}).relevance["input"]
    torch.testing.assert_close((parts - none).sum(0) + none, found.relevance["input"], rtol=1e-9, atol=1e-12)


def test_a_dictionary_that_does_not_fit() -> None:
    net, dictionary, x = example()
    wrong: list[tuple[Any, str]] = [
        (
            {"blocks.7": dictionary},
            "splice names 'blocks.7', which is no module that computes anything; near it: blocks",
        ),
        ({"blocks.0": nn.Linear(6, 6)}, r"splice\['blocks.0'\] is an object with methods encode and decode"),
        ({"first": dictionary.float()}, "The dictionary of splice='first' fails on the value there.*dtype"),
        ([dictionary], "splice is a dict from paths of modules to dictionaries"),
    ]
    for given, sentence in wrong:
        with pytest.raises(InputError, match=sentence):
            lrp.compile(net, (x,), splice=given)
    with pytest.raises(InputError, match="in training mode"):
        lrp.compile(net, (x,), splice={"first": Dictionary().double()})


@pytest.mark.slow
def test_a_cache_takes_no_dictionary_for_another(tmp_path: Path) -> None:
    net, dictionary, x = example()
    other = Dictionary().eval().double()
    found = [
        spliced(net, one, x, observe="blocks.0.features", cache=tmp_path)(x).relevance["blocks.0.features"]
        for one in (dictionary, other)
    ]

    assert not torch.allclose(*found)
    torch.testing.assert_close(
        found[1], spliced(net, other, x, observe="blocks.0.features")(x).relevance["blocks.0.features"]
    )


@pytest.mark.slow
def test_a_cache_keeps_masks_and_seeds(tmp_path: Path) -> None:
    net, _, x = example()
    options: dict[str, Any] = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "cache": tmp_path}
    mask = {"blocks.0": torch.tensor([1.0, 0, 0, 1, 1, 0])}
    for _ in range(2):
        plain = lrp.compile(net, (x,), **options)
        masked = lrp.compile(net, (x,), masks="blocks.0", seeds=lrp.Put("blocks.1", "unit"), **options)
        assert not plain.about.latents
        torch.testing.assert_close(plain(x).relevance["x"], masked(x).relevance["x"], rtol=0, atol=0)
        assert not torch.allclose(masked(x, masks=mask).relevance["x"], masked(x).relevance["x"])


@pytest.mark.slow
def test_verify_does_not_compare_a_dictionary_with_the_model_alone(tmp_path: Path) -> None:
    net, dictionary, x = example(dtype=torch.float32)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=(BATCH,)), tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2")
    lrp.compile(program, splice={"blocks.0": dictionary}, target=1).save(tmp_path / "m.lrp.pt2")

    checks = {one.name: one for one in verify(tmp_path / "m.lrp.pt2", tmp_path / "m.pt2").checks}

    assert checks["source"].passed
    assert checks["parity"].passed is None
    assert checks["parity"].found == "the file holds a dictionary at blocks.0, and the model does not"
