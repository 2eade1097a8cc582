"""Which values have zeros around them, and how many."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn.functional import pad

from lrp_compiler.passes.assign.borders import zero_border

X = torch.randn(2, 3, 5, 6)
BORDERS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "none": (lambda x: x.sin(), ()),
    "rows and columns": (lambda x: pad(x, [0, 1, 2, 3]), (0, 1, 2, 3)),
    "a border around a border": (lambda x: pad(pad(x, [1, 0]), [1, 2, 3, 4]), (2, 2, 3, 4)),
    "channels as well": (lambda x: pad(x, [1, 1, 0, 0, 2, 0]), (1, 1, 0, 0, 2, 0)),
    "of ones": (lambda x: pad(x, [1, 1], value=1.0), ()),
    "zeros around ones": (lambda x: pad(pad(x, [1, 1], value=1.0), [2, 2]), (2, 2)),
    "a crop": (lambda x: pad(x, [1, -1]), ()),
    "as wide as the input": (lambda x: pad(x, [0, x.shape[0]]), ()),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", BORDERS)
def test_zeros_around_a_value_are_counted(name: str, graph_of: Callable[..., fx.GraphModule]) -> None:
    function, expected = BORDERS[name]
    graph = graph_of(function, X, dynamic=True)
    (value,) = graph.graph.output_node().args[0]

    assert zero_border(value) == expected
