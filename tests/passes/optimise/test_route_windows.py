"""Max pools of disjoint windows: relevance goes to the first of the largest elements, without indices."""

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.optimise.route_windows import routed

pytestmark = pytest.mark.sampled(4)


def by_loops(x: Tensor, relevance: Tensor, size: int) -> Tensor:
    """Window by window, element by element."""
    result = torch.zeros_like(x)
    for place in torch.cartesian_prod(*map(torch.arange, relevance.shape)):
        *lead, row, column = (int(index) for index in place)
        window = x[(*lead, slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size))]
        best = max(range(size * size), key=lambda index: (float(window.flatten()[index]), -index))
        result[(*lead, row * size + best // size, column * size + best % size)] = relevance[(*lead, row, column)]
    return result


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("lead", [(2, 3), (3,)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_first_of_the_largest_takes_all(size: int, lead: tuple[int, ...], ties: bool) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(*lead, 2 * size, 3 * size, dtype=torch.float64, generator=generator)
    if ties:
        x = x.round().clamp(-1, 1)
        x[0] = -torch.inf
    relevance = torch.randn(*lead, 2, 3, dtype=torch.float64, generator=generator)

    found = routed(x, relevance.flatten(-2), size).reshape(x.shape)

    torch.testing.assert_close(found, by_loops(x, relevance, size), rtol=0, atol=0)


class Pooled(nn.Module):
    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.pool, self.classes = nn.Conv2d(3, 4, 3, padding=1), pool, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.pool(torch.relu(self.conv(x))).flatten(1))


@pytest.mark.slow
@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    ("pool", "without_indices"),
    [
        (nn.MaxPool2d(2), True),
        (nn.MaxPool2d(3), True),
        (nn.MaxPool2d(3, stride=2), False),
        (nn.MaxPool2d(2, padding=1), False),
        (nn.MaxPool2d(2, stride=2, dilation=2), False),
        (nn.MaxPool2d((2, 3)), False),
        (nn.MaxPool2d(4), False),
        (nn.MaxPool2d(5, ceil_mode=True), False),
    ],
)
def test_where_windows_are_disjoint_squares(pool: nn.Module, without_indices: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64).round()
    network = Pooled(pool).double().eval()
    network(x)
    shapes = {"x": {0: torch.export.Dim("batch")}}

    routed, plain = (lrp.compile(network, (x,), optimise=value, dynamic_shapes=shapes) for value in (True, False))

    assert ("aten.max_pool2d_with_indices" in str(routed.module.graph)) is not without_indices
    assert ("aten.scatter_add" in str(routed.module.graph)) is not without_indices
    fresh = torch.cat([x, -x, x + 0.5])
    expected = plain(fresh).relevance["x"]
    torch.testing.assert_close(routed(fresh).relevance["x"], expected, rtol=1e-12, atol=1e-13)
