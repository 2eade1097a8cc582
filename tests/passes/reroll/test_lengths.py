"""Programs of two lengths become one of any."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.reroll import NotRepeated, of_any_length


def joined(captured: Callable, function: Callable[[Tensor], Tensor]) -> torch.fx.GraphModule:
    module: torch.fx.GraphModule = captured(function, 5)
    of_any_length(module, captured(function, 6), 5, (0, 1))
    return module


def with_sizes(x: Tensor) -> Tensor:
    length = x.shape[1]
    h = torch.zeros(2, 3)
    for time in range(length):
        h = torch.tanh(h + x[:, time])
    places = torch.arange(length) * 2 + length
    return x.reshape(2 * length, 3).sum() + places.sum() + torch.ones(2, 3 * length - 1).sum() + h.sum()


@pytest.mark.slow
@pytest.mark.parametrize("length", [2, 5, 11])
def test_numbers_that_grow_with_the_length(length: int, captured: Callable) -> None:
    x = torch.randn(2, length, 3)

    torch.testing.assert_close(joined(captured, with_sizes).forward(x), with_sizes(x))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x.sum(1) * (1 / x.shape[1]), "at one length and"),
        (lambda x: x * torch.tensor([float(i) for i in range(x.shape[1])])[:, None], "constant .* another one"),
        (lambda x: x.sum(1).exp() if x.shape[1] % 2 else x.sum(1), "counterpart|other nodes|at another length"),
    ],
    ids=["a number with a fraction", "a table", "another program"],
)
def test_what_else_is_different(function: Callable[[Tensor], Tensor], said: str, captured: Callable) -> None:
    with pytest.raises(NotRepeated, match=said):
        joined(captured, function)
