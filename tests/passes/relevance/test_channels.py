"""Where the channels of a value lie, by the operation that made it."""

from collections.abc import Callable

import pytest
import torch
from support.assigned import captured
from torch import Tensor, nn
from torch.nn import functional

from lrp_compiler.passes import explainable_inputs
from lrp_compiler.passes.assign import analyse, assign_rules, reachable
from lrp_compiler.passes.graph import outputs, simplify
from lrp_compiler.passes.relevance.latents import feature_dim
from lrp_compiler.rules.composites import COMPOSITES

EPSILON = COMPOSITES["epsilon"]()
IMAGE, TOKENS, IDS = torch.randn(2, 3, 8, 8), torch.randn(2, 7, 5), torch.randint(9, (2, 7))


class Calls(nn.Module):
    """A layer, and what is done to its value."""

    def __init__(self, layer: nn.Module, behind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.behind = layer, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.layer(x))


class Scaled(nn.Module):
    """A convolution, factors and constants by channel in steps of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, bias=False)
        self.register_buffer("scale", torch.rand(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale + self.scale


CASES: dict[str, tuple[nn.Module, Tensor, int]] = {
    "convolution": (nn.Conv2d(3, 6, 3), IMAGE, 1),
    "transposed convolution": (nn.ConvTranspose2d(3, 6, 3), IMAGE, 1),
    "convolution in steps": (Scaled(), IMAGE, 1),
    "of a sequence": (nn.Conv1d(7, 6, 3), TOKENS, 1),
    "batch norm": (nn.BatchNorm2d(3), IMAGE, 1),
    "max pool": (nn.MaxPool2d(2), IMAGE, 1),
    "interpolation": (nn.Upsample(scale_factor=1.5, mode="bilinear"), IMAGE, 1),
    "dense layer": (nn.Linear(5, 6), TOKENS, 2),
    "dense layer of an image": (nn.Linear(8, 6), IMAGE, 3),
    "layer norm": (nn.LayerNorm(5), TOKENS, 2),
    "embedding": (nn.Embedding(9, 5), IDS, 2),
    "elementwise steps behind a layer": (Calls(nn.Linear(8, 6), lambda h: functional.gelu(h) * 2), IMAGE, 3),
    "a product of activations of rank three": (Calls(nn.Identity(), lambda h: h @ h.transpose(-1, -2)), TOKENS, 2),
    "a product of activations of rank four": (Calls(nn.Identity(), lambda h: h @ h.transpose(-1, -2)), IMAGE, 1),
}
"""Layer, example, dim of the channels."""


@pytest.mark.parametrize("name", CASES)
def test_channels_lie_where_the_operation_puts_them(name: str) -> None:
    model, example, dim = CASES[name]

    module = simplify(captured(model, example)).graph_module
    (value,) = outputs(module)
    analyse(module, explainable_inputs(module), EPSILON)
    assign_rules(module, EPSILON, reachable(module, value))

    assert feature_dim(value) == dim
