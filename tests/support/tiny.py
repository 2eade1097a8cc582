"""The smallest explainer, and what an error is."""

from functools import cache

import torch
from torch import nn
from torch.export import Dim

import lrp_compiler as lrp


@cache
def tiny() -> lrp.Explainer:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    return lrp.compile(net, (torch.randn(2, 4),), target="index", dynamic_shapes=({0: Dim("batch")},))


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert str(error).endswith(".")
