"""Relevances of several values as one map over the input's places: against torch's own interpolation, and sums."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional

from lrp_compiler.passes.relevance.aggregate import aggregate, misfit


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def run(graph_of: Callable, lead: int, *given: Tensor) -> Tensor:
    """The map of the first one and the rest, in a graph that was traced for another batch."""
    module: fx.GraphModule = graph_of(partial(aggregate, lead), *(one[:2] for one in given), dynamic=True)
    (found,) = module(*given)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(3, 4), (2, 5), (8, 10), (1, 1), (5, 10)])
def test_a_map_is_that_of_bilinear_interpolation_with_the_sum_kept(sizes: tuple[int, int], graph_of: Callable) -> None:
    own, value = drawn(3, 3, 8, 10), drawn(3, 6, *sizes)

    found = run(graph_of, 1, own, value)

    channels = value.sum(1, keepdim=True)
    spread = functional.interpolate(channels, (8, 10), mode="bilinear")[:, 0] * (sizes[0] * sizes[1] / 80)
    torch.testing.assert_close(found, own.sum(1) + spread, rtol=1e-12, atol=1e-12)


def test_a_size_that_divides_keeps_every_sum(graph_of: Callable) -> None:
    """Then the means at the borders take as much from an element as those inside: Σ map = Σ of all relevances."""
    own, value = drawn(3, 3, 8, 12), drawn(3, 6, 4, 3)

    found = run(graph_of, 1, own, value)

    torch.testing.assert_close(found.sum((1, 2)), own.sum((1, 2, 3)) + value.sum((1, 2, 3)), rtol=1e-10, atol=1e-12)


def test_values_of_three_sizes_are_added_up(graph_of: Callable) -> None:
    own, values = drawn(3, 3, 4, 4, 6), [drawn(3, 2, 4, 4, 6), drawn(3, 5, 2, 4, 3)]

    found = run(graph_of, 1, own, *values)

    spread = functional.interpolate(values[1].sum(1, keepdim=True), (4, 4, 6), mode="trilinear")[:, 0] / 4
    torch.testing.assert_close(found, own.sum(1) + values[0].sum(1) + spread, rtol=1e-12, atol=1e-12)


def test_of_a_sequence_features_come_last(graph_of: Callable) -> None:
    own, features, scores = drawn(3, 7), drawn(3, 7, 4), drawn(3, 7)

    torch.testing.assert_close(run(graph_of, 1, own, features, scores), own + features.sum(-1) + scores)
    torch.testing.assert_close(run(graph_of, 1, features, scores), features.sum(-1) + scores)


def test_several_targets_stand_in_front(graph_of: Callable) -> None:
    own, value = drawn(3, 2, 3, 4, 4), drawn(3, 2, 6, 2, 2)

    found = run(graph_of, 2, own, value)

    for target in range(3):
        spread = functional.interpolate(value[target].sum(1, keepdim=True), (4, 4), mode="bilinear")[:, 0] / 4
        torch.testing.assert_close(found[target], own[target].sum(1) + spread, rtol=1e-12, atol=1e-12)


def test_half_precision_is_summed_in_float32(graph_of: Callable) -> None:
    own = torch.cat([torch.full((2, 1, 2, 2), 4096.0), torch.ones(2, 7, 2, 2)], 1).half()

    found = run(graph_of, 1, own, own)

    assert found.dtype == torch.float32
    assert found.eq(2 * 4103.0).all()


@pytest.mark.parametrize(
    ("own", "value", "words"),
    [
        ((2, 3, 8, 8), (2, 6, 8, 8), ""),
        ((2, 3, 8, 8), (2, 6, 3, 8), ""),
        ((2, 7), (2, 7, 4), ""),
        ((2, 7, 4), (2, 7), ""),
        ((2, 3, 8, 8), (3, 6, 4, 4), "another batch"),
        ((2,), (2, 7), "another batch"),
        ((2, 7), (2, 6, 4), "not the input's length"),
        ((2, 7), (2, 7, 4, 4), "not the input's length"),
        ((2, 3, 8, 8), (2, 6), "has 2 dims with its batch, and the input has 4"),
        ((2, 3, 8, 8), (2, 6, 4, 9), "more places"),
    ],
)
def test_what_has_other_places_is_told(own: tuple[int, ...], value: tuple[int, ...], words: str) -> None:
    said = misfit(torch.empty(own), torch.empty(value))

    assert words in said
    assert bool(said) == bool(words)
