"""Volumes sampled at a grid: torch's numbers in every mode, and relevance of volume and grid."""

from itertools import product
from pathlib import Path

import pytest
import torch
from support.whole import holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, nn
from torch.nn import functional

from lrp_compiler.passes.decompose.sampling import grid_sampler_3d

pytestmark = pytest.mark.sampled(12)

VOLUME = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRID = torch.rand(2, 3, 4, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 - 1.5
MODES, PADDINGS = ("bilinear", "nearest"), ("zeros", "border", "reflection")


@pytest.mark.parametrize(("mode", "padding", "corners"), product(MODES, PADDINGS, (False, True)))
def test_what_is_sampled_is_torchs(mode: str, padding: str, corners: bool) -> None:
    found = grid_sampler_3d(VOLUME, GRID, MODES.index(mode), PADDINGS.index(padding), corners)

    wanted = functional.grid_sample(VOLUME, GRID, mode, padding, corners)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_dim_of_one_element_is_sampled_too(padding: str) -> None:
    flat = VOLUME[:, :, :1]

    found = grid_sampler_3d(flat, GRID, 0, PADDINGS.index(padding), True)

    torch.testing.assert_close(found, functional.grid_sample(flat, GRID, "bilinear", padding, True))


class Sampled(nn.Module):
    def __init__(self, padding: str) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("grid", GRID)

    def forward(self, x: Tensor) -> Tensor:
        sampled = functional.grid_sample(x, self.grid.to(x.dtype), "bilinear", self.padding, align_corners=False)
        return sampled.flatten(2).cumsum(-1)[..., -3:].mean(-1)


@pytest.mark.heavy
@pytest.mark.parametrize("padding", PADDINGS)
def test_relevance_of_the_volume_is_gradient_times_input(padding: str, tmp_path: Path) -> None:
    model = in_precision(Sampled(padding), torch.float64)

    explainer = holds(model, (VOLUME,))

    leaf = VOLUME.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    torch.testing.assert_close(explainer(VOLUME).relevance["x"], VOLUME * leaf.grad)
    survives_files(explainer, (VOLUME,), tmp_path)
    runs_in_onnxruntime(model, (VOLUME,), None, tmp_path)


class Transformed(nn.Module):
    """A spatial transformer: the grid depends on the volume as well."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        moved = torch.eye(3, 4, dtype=x.dtype) + 0.1 * x.mean((1, 2, 3, 4)).reshape(-1, 1, 1)
        grid = functional.affine_grid(moved, list(x.shape), align_corners=False)
        return self.head(functional.grid_sample(x, grid, align_corners=False).mean((2, 3, 4)))


@pytest.mark.slow
def test_a_grid_that_is_calculated_takes_its_share(tmp_path: Path) -> None:
    model = Transformed()

    explainer = holds(model, (VOLUME,))

    assert explainer(VOLUME).relevance["x"].any()
    survives_files(explainer, (VOLUME,), tmp_path)
