"""Whole networks against Zennit, in float64, under every composite that Zennit names."""

from typing import Any

import pytest
import torch
from support import zennit_oracle
from support.zoo import SEVEN, VGG16_BN

import lrp_compiler as lrp

CASES = {"vgg16": SEVEN["vgg16"], "vgg16_bn": VGG16_BN, "resnet50": SEVEN["resnet50"]}
LOW, HIGH = [-2.2, -2.1, -1.9], [2.3, 2.5, 2.7]


@pytest.mark.parametrize("composite", zennit_oracle.COMPOSITES)
@pytest.mark.parametrize("name", CASES)
def test_relevance_equals_zennits(name: str, composite: str) -> None:
    example = CASES[name].build(dtype=torch.float64)
    (x,), _ = example.fresh(batch=2, seed=3)
    target = torch.tensor([1, 4])
    ours_takes: dict[str, Any] = {}
    theirs_takes: dict[str, Any] = {}
    if composite == "epsilon-gamma-box":
        ours_takes = {"low": LOW, "high": HIGH}
        theirs_takes = {key: torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for key, v in ours_takes.items()}
    table = lrp.composites.COMPOSITES[composite](**ours_takes)
    explainer = lrp.compile(example.model, example.args, composite=table, target="index")

    ours = explainer(x, target=target).relevance["x"]
    theirs = zennit_oracle.relevance(example.model, x, target, composite, **theirs_takes)

    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
