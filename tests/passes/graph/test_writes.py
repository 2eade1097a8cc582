"""Writes in place, in what was traced of a function, are values of their own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.graph.writes import without_writes
from lrp_compiler.torch_private import make_fx, schema


def scattered(x: Tensor) -> Tensor:
    values, places = x.topk(2, dim=-1)
    return torch.zeros_like(x).scatter_(-1, places, values.relu())


def written_twice(x: Tensor) -> Tensor:
    y = x * 2
    before = y + 1
    y.relu_()
    y += x
    return y * before


def view_taken_afterwards(x: Tensor) -> Tensor:
    y = x.exp()
    y.mul_(x)
    return y.reshape(-1)[1:]


def view_forgotten(x: Tensor) -> Tensor:
    y = x.exp()
    z = y.reshape(-1).sum()
    y.clamp_(max=1.0)
    return y + z


def of_another_dtype(x: Tensor) -> Tensor:
    y = x.exp()
    y += x.double()
    return y * y.dtype.itemsize


def with_itself(x: Tensor) -> Tensor:
    y = x.exp()
    return y.add_(y).sub_(x)


ALONE = [scattered, written_twice, view_taken_afterwards, view_forgotten, of_another_dtype, with_itself]


@pytest.mark.parametrize("function", ALONE)
def test_the_same_without_a_write(function: Callable[[Tensor], Tensor]) -> None:
    x, other = torch.randn(2, 3, 4)
    module = make_fx(function)(x.clone())
    without_writes(module)
    module.graph.lint()
    module.recompile()
    assert not any(known.is_mutable for node in module.graph.nodes if (known := schema(node.target)) is not None)
    torch.testing.assert_close(module(other.clone()), function(other.clone()), rtol=0, atol=0)


def into_a_part(x: Tensor) -> Tensor:
    y = x.exp()
    y[:, 0] = 1.0
    return y


def through_a_view(x: Tensor) -> Tensor:
    y = x.exp()
    flat = y.reshape(-1)
    y.relu_()
    return flat


@pytest.mark.parametrize("function", [into_a_part, through_a_view])
def test_what_is_seen_elsewhere_stays_a_write(function: Callable[[Tensor], Tensor]) -> None:
    """Another value that shares the memory is read after it."""
    x, other = torch.randn(2, 3, 4)
    module = make_fx(function)(x.clone())
    without_writes(module)
    module.recompile()
    assert any(known.is_mutable for node in module.graph.nodes if (known := schema(node.target)) is not None)
    torch.testing.assert_close(module(other.clone()), function(other.clone()), rtol=0, atol=0)
