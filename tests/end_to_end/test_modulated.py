"""Networks that make pictures out of a style: convolutions of a constant, whose weights alone are computed."""

from pathlib import Path

import pytest
import torch
from support.whole import holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, nn
from torch.nn import functional


class Modulated(nn.Module):
    def __init__(self, transposed: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.transposed, self.style, self.head = transposed, nn.Linear(8, 3), nn.Linear(4, 3)
        shape = (3, 4, 3, 3) if transposed else (4, 3, 3, 3)
        self.constant = nn.Parameter(torch.randn(1, 3, 5, 5, generator=generator))
        self.weight = nn.Parameter(torch.randn(shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        batch, style = x.shape[0], self.style(x)
        scale = style[:, :, None, None, None] if self.transposed else style[:, None, :, None, None]
        over = (1, 3, 4) if self.transposed else (2, 3, 4)
        weight = self.weight * scale
        weight = weight * (weight.square().sum(over, keepdim=True) + 1e-8).rsqrt()
        maps = self.constant.repeat(batch, 1, 1, 1).reshape(1, batch * 3, 5, 5)
        if self.transposed:
            made = functional.conv_transpose2d(maps, weight.flatten(0, 1), None, 2, 1, 1, groups=batch)
        else:
            made = functional.conv2d(maps, weight.flatten(0, 1), padding=1, groups=batch)
        return self.head(made.reshape(batch, 4, *made.shape[2:]).relu().mean((2, 3)))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("transposed", [False, True])
def test_the_style_takes_the_relevance_of_the_weights_that_it_makes(transposed: bool, tmp_path: Path) -> None:
    model = in_precision(Modulated(transposed), torch.float64)
    x = torch.randn(2, 8, dtype=torch.float64)

    explainer = holds(model, (x,))

    assert explainer(x).relevance["x"].any()
    survives_files(explainer, (x,), tmp_path)
    runs_in_onnxruntime(model, (x,), None, tmp_path)
