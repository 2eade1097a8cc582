"""Whole networks against Zennit, in float64, under every composite that Zennit names."""

from typing import Any

import pytest
import torch
from support import zennit_oracle
from support.small import small
from support.zoo import SEVEN, VGG16_BN, Example

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(12)

LOW, HIGH = [-2.2, -2.1, -1.9], [2.3, 2.5, 2.7]
COMPOSITES = pytest.mark.parametrize("composite", zennit_oracle.COMPOSITES)


def assert_parity(example: Example, composite: str) -> None:
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

    # float64 leaves up to 3e-13: ε where a sum nearly cancels magnifies its rounding.
    assert (ours - theirs).abs().max() <= 1e-11 * theirs.abs().max()


@pytest.mark.sampled(48)
@COMPOSITES
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "resnet50"])
def test_relevance_equals_zennits(name: str, composite: str) -> None:
    assert_parity(small(name, torch.float64), composite)


@pytest.mark.heavy
@COMPOSITES
@pytest.mark.parametrize("case", [SEVEN["vgg16"], VGG16_BN, SEVEN["resnet50"]], ids=lambda case: case.name)
def test_relevance_equals_zennits_at_full_depth(case: Any, composite: str) -> None:
    assert_parity(case.build(dtype=torch.float64), composite)
