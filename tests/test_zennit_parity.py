"""Whole networks against Zennit, in float64."""

import pytest
import torch
from support import zennit_oracle
from support.zoo import SEVEN, VGG16_BN

import lrp_compiler as lrp

CASES = {"vgg16": SEVEN["vgg16"], "vgg16_bn": VGG16_BN, "resnet50": SEVEN["resnet50"]}


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus"])
@pytest.mark.parametrize("name", CASES)
def test_relevance_equals_zennits(name: str, composite: str) -> None:
    example = CASES[name].build(dtype=torch.float64)
    (x,), _ = example.fresh(batch=2, seed=3)
    target = torch.tensor([1, 4])
    explainer = lrp.compile(example.model, example.args, composite=composite, target="index")

    ours = explainer(x, target=target).relevance["x"]
    theirs = zennit_oracle.relevance(example.model, x, target, composite)

    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
