"""In-place writes to views become slices and concatenations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.decompose.scatters import write_out_scatters
from lrp_compiler.passes.graph.simplify import simplify

X = torch.randn(2, 5, 4)


def set_position(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, -1] = x[:, 0] * 2
    return y


def set_stretch(x: Tensor) -> Tensor:
    y = x * 1.5
    y[:, 1:] = x[:, :-1]
    return y


def set_every_other(x: Tensor) -> Tensor:
    y = x * 1.5
    y[..., ::2] = x[..., 1::2]
    return y


def set_number(x: Tensor) -> Tensor:
    y = x * 1.5
    y[:, :2] = 3.0
    return y


def scale_part_of_an_inner_view(x: Tensor) -> Tensor:
    y = torch.einsum("bij,bkj->bik", x, x)
    y.transpose(1, 2)[:, 1:3].mul_(2)
    return y.flatten(1)


def set_diagonal(x: Tensor) -> Tensor:
    y = x[:, :4] * 1.5
    y.diagonal(0, 1, 2).copy_(x[:, 0])
    return y


WRITES = [set_position, set_stretch, set_every_other, set_number, scale_part_of_an_inner_view, set_diagonal]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__)
def test_what_is_written_out_computes_the_same(
    function: Callable, dynamic: bool, graph_of: Callable, targets: Callable
) -> None:
    before = graph_of(function, X, dynamic=dynamic)

    result = write_out_scatters(before)

    assert result.modified
    assert not [name for name in targets(result.graph_module) if name in ("slice_scatter", "select_scatter", "copy")]
    x = torch.randn(3 if dynamic else 2, 5, 4)
    torch.testing.assert_close(simplify(result.graph_module).graph_module(x)[0], function(x))


def test_the_length_may_vary() -> None:
    import lrp_compiler as lrp

    class Shifted(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return set_stretch(x).sum(1)

    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=3)}}
    explainer = lrp.compile(Shifted().eval(), (X,), composite="attnlrp", target=1, dynamic_shapes=shapes)
    x = torch.randn(3, 9, 4)

    relevance = explainer(x).relevance["x"]

    expected = torch.zeros_like(x)
    expected[:, :-1, 1] = x[:, :-1, 1]  # every position but the last was moved
    expected[:, 0, 1] += 1.5 * x[:, 0, 1]  # the first one stays as well
    torch.testing.assert_close(relevance, expected)


def test_it_says_whether_it_changed_anything(graph_of: Callable) -> None:
    assert not write_out_scatters(graph_of(torch.relu, X)).modified
