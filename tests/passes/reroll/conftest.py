"""Programs whose steps are written out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_compiler.passes.reroll.tidy import tidy


@pytest.fixture
def captured() -> Callable[..., fx.GraphModule]:
    """`captured(function, length)`: what torch.export makes of `function(x)`, x `[2, length, 3]`; functional, tidy."""

    def make(function: Callable[[Tensor], Tensor], length: int) -> fx.GraphModule:
        class Model(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return function(x)

        x = torch.arange(2.0 * length * 3).reshape(2, length, 3)
        module = torch.export.export(Model(), (x,)).run_decompositions({}).module(check_guards=False)
        tidy(module)
        return module

    return make
