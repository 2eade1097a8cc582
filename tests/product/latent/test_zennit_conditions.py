"""Conditional heatmaps of VGG16 and ResNet-50 equal Zennit's relevance, masked by hooks, in float64."""

from typing import Any

import pytest
import torch
from support import zennit_oracle
from support.small import small
from support.zoo import SEVEN, Example
from torch import Tensor

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(4)

CLASSES = 5
LAYERS = {
    "vgg16": ["features.28", "features.17", "features.5"],
    "resnet50": ["layer4.0.conv2", "layer3.0.conv2", "conv1"],
}
CONDITIONS = 20


def drawn(paths: list[str], sizes: dict[str, int]) -> tuple[int, dict[str, Tensor]]:
    """A class, and channels of one or two layers: a few, or half of them."""
    chosen = [paths[int(number)] for number in torch.randperm(len(paths))[: int(torch.randint(1, 3, ()))]]
    share = float(torch.rand(())) * 0.5
    return int(torch.randint(0, CLASSES, ())), {
        path: (torch.rand(sizes[path]) < share + 0.1).double() for path in chosen
    }


def hold(example: Example, name: str, composite: str, count: int) -> None:
    (x,), _ = example.fresh(batch=2, seed=3)
    paths = LAYERS[name]
    explainer = lrp.compile(example.model, example.args, composite=composite, target="index", masks=paths)
    sizes = {
        latent.path: spec.shape[1] for latent, spec in zip(explainer.about.latents, masks_of(explainer), strict=True)
    }
    conditions = [drawn(paths, sizes) for _ in range(count)]

    theirs = []
    for target, masks in conditions:
        rows = {path: mask.expand(2, -1) for path, mask in masks.items()}
        theirs.append(zennit_oracle.relevance(example.model, x, target, composite, masks=rows))
        ours = explainer(x, target=target, masks=masks).relevance["x"]
        close(ours, theirs[-1])
    targets = torch.tensor([[target] * 2 for target, _ in conditions])
    every = {
        path: torch.stack([masks.get(path, torch.ones(sizes[path]).double()) for _, masks in conditions]).unsqueeze(1)
        for path in paths
    }
    close(explainer(x, target=targets, masks=every).relevance["x"], torch.stack(theirs))
    assert any(float(one.abs().max()) > 0 for one in theirs)


def masks_of(explainer: lrp.Explainer) -> list[Any]:
    return [spec for spec in explainer.about.seed_inputs if spec.name.startswith("mask.")]


def close(ours: Tensor, theirs: Tensor) -> None:
    assert float((ours - theirs).abs().max()) <= 1e-6 * float(theirs.abs().max())


@pytest.mark.parametrize(
    ("name", "composite"),
    [("vgg16", "epsilon-plus"), pytest.param("resnet50", "epsilon", marks=pytest.mark.heavy)],
)
def test_conditional_relevance_equals_masked_zennit(name: str, composite: str) -> None:
    hold(small(name, torch.float64), name, composite, 4)


@pytest.mark.heavy
@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "epsilon-plus-flat"])
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_conditional_relevance_equals_masked_zennit_at_full_depth(name: str, composite: str) -> None:
    hold(SEVEN[name].build(dtype=torch.float64, image_size=96), name, composite, CONDITIONS)
