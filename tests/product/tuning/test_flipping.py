"""What is replaced at once, and by what."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.tuning.flipping import blurred, feature_map, replacement

pytestmark = pytest.mark.sampled(4)


def test_patches_are_numbered_row_by_row_and_cut_at_the_edges() -> None:
    found = feature_map(torch.zeros(2, 3, 3, 5), 2)

    expected = torch.tensor([[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]).expand(2, 3, 3, 5)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("x", "features", "count"),
    [
        (torch.zeros(2, 3, 4, 5), None, 20),
        (torch.zeros(2, 3, 4, 5), "pixels", 20),
        (torch.zeros(2, 3, 4, 5), "elements", 60),
        (torch.zeros(2, 7, 6), "tokens", 7),
        (torch.zeros(2, 7, dtype=torch.int64), None, 7),
        (torch.zeros(2, 7), None, 7),
    ],
)
def test_features_by_name(x: Tensor, features: Any, count: int) -> None:
    found = feature_map(x, features)

    assert found.shape == x.shape
    assert found.unique().tolist() == list(range(count))


def test_a_blur_keeps_what_is_even_and_the_mean_of_what_is_not() -> None:
    edge = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    edge[..., 16:] = 1

    assert torch.allclose(blurred(torch.full((1, 2, 20, 30), 3.0)), torch.tensor(3.0))
    smooth = blurred(edge)[0, 0]
    # An edge behind a Gaussian is the normal distribution function; σ is 4. Pixels are steps of it: measured, 1.3e-3.
    expected = 0.5 * (1 + torch.erf((torch.arange(32) - 15.5) / (4 * 2**0.5)))
    torch.testing.assert_close(smooth[16, 4:28], expected[4:28].double(), rtol=0, atol=2e-3)


def test_the_mean_is_that_of_each_channel_over_all_inputs() -> None:
    x = torch.arange(24.0).view(2, 3, 2, 2)

    found = replacement(x, "mean")

    assert found[0, :, 0, 0].tolist() == [7.5, 11.5, 15.5]
    assert found.shape == x.shape
