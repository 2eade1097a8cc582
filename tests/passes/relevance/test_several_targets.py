"""Several targets in one run: the same numbers as one after the other, whatever the sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.passes.relevance.several_targets import BATCHED, batched, over_targets
from lrp_compiler.torch_private import make_fx, python_dispatcher

Walk = Callable[[Tensor], Tensor]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


TARGETS, BATCH = 3, 2
VALUES = drawn(BATCH, 4, 5, 5)
# A convolution of the targets' relevance, its options, and the shapes of one target's operand and of the weight.
MAPS: dict[Any, tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]] = {
    torch.conv1d: ((4, 7), (6, 2, 3), (None, 2, 1, 1, 2)),
    torch.conv2d: ((4, 5, 5), (6, 4, 2, 2), (None, [1, 2])),
    torch.conv3d: ((2, 3, 3, 3), (3, 2, 2, 2, 2), ()),
    torch.conv_transpose1d: ((4, 5), (4, 3, 3), (None, 2, 1)),
    torch.conv_transpose2d: ((4, 3, 3), (4, 2, 2, 2), (None, 2, 0, 1, 2)),
    torch.conv_transpose3d: ((2, 2, 2, 2), (2, 3, 2, 2, 2), ()),
}


def one_by_one(walk: Walk, seeds: Tensor) -> Tensor:
    return torch.stack([walk(seed) for seed in seeds])


def at_once(walk: Walk, seeds: Tensor) -> Tensor:
    return over_targets(lambda seed: {"x": walk(seed)}, seeds)["x"]


@pytest.mark.parametrize("function", BATCHED, ids=lambda function: function.__name__)
@pytest.mark.parametrize("of", ["operand", "weight", "both"])
def test_a_convolution_of_every_target_at_once(function: Any, of: str) -> None:
    """Mostly the operand has targets; where a weight's relevance is asked for, it is the weight."""
    operand, weight, options = MAPS[function]
    x, w = drawn(BATCH, *operand), drawn(*weight)
    xs, ws = drawn(TARGETS, BATCH, *operand), drawn(TARGETS, *weight)
    walks: dict[str, tuple[Walk, Tensor]] = {
        "operand": (lambda seed: function(seed, w, *options), xs),
        "weight": (lambda seed: function(x, seed, *options), ws),
        "both": (lambda seed: function(seed, w * seed.sum(), *options), xs),
    }
    walk, seeds = walks[of]

    torch.testing.assert_close(at_once(walk, seeds), one_by_one(walk, seeds), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("amounts", [(1, 2), (0, 0, 3, 1), (-1, 1, 2, -2)])
def test_a_border_of_zeros_around_every_target(amounts: tuple[int, ...]) -> None:
    def walk(seed: Tensor) -> Tensor:
        return functional.pad(seed, amounts)

    seeds = drawn(TARGETS, BATCH, 4, 5)

    assert torch.equal(at_once(walk, seeds), one_by_one(walk, seeds))


KERNEL, WIDE, POINT, DENSE = drawn(3, 4, 2, 2), drawn(4, 4, 2, 2), drawn(4, 4, 1, 1), drawn(100, 3)
TRANSPOSED = drawn(4, 2, 2, 2)
WALKS: dict[str, Walk] = {
    "a border of ones": lambda seed: functional.pad(seed, (1, 0), value=1.0),
    "a border that mirrors": lambda seed: functional.pad(seed, (1, 1, 0, 2), mode="reflect"),
    "a convolution by name": lambda seed: torch.conv2d(seed, weight=KERNEL),
    "a product with a shared value": lambda seed: seed * VALUES,
    "a matrix product": lambda seed: seed.flatten(1) @ DENSE,
    "a convolution of what has no targets": lambda seed: torch.conv2d(VALUES, POINT) * seed,
    "places looked up": lambda seed: seed.gather(3, VALUES.argsort(3)),
    "one map after the other": lambda seed: torch.conv2d(functional.pad(torch.conv2d(seed, WIDE), (1, 0)), KERNEL),
}


@pytest.mark.parametrize("name", WALKS)
def test_everything_else_is_as_it_is(name: str) -> None:
    walk, seeds = WALKS[name], drawn(TARGETS, BATCH, 4, 5, 5)

    torch.testing.assert_close(at_once(walk, seeds), one_by_one(walk, seeds), rtol=1e-12, atol=1e-12)


def test_all_relevances_of_the_walk_come_back() -> None:
    seeds = drawn(TARGETS, BATCH, 4)

    found = over_targets(lambda seed: {"a": seed * 2, "b": seed.sum(1)}, seeds)

    assert list(found) == ["a", "b"]
    assert torch.equal(found["a"], seeds * 2)
    torch.testing.assert_close(found["b"], seeds.sum(2), rtol=1e-15, atol=1e-15)


def test_one_target_needs_no_batching() -> None:
    x, weight = drawn(2, 4, 5, 5), drawn(3, 4, 2, 2)

    assert torch.equal(batched(torch.conv2d, x, weight, None, 2), torch.conv2d(x, weight, None, 2))
    assert torch.equal(batched(functional.pad, x, None, (1, 1)), functional.pad(x, (1, 1)))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("walk", "weight"),
    [
        (lambda seed, weight: torch.conv2d(seed, weight, None, 2), KERNEL),
        (lambda seed, weight: torch.conv2d(seed, weight, None, stride=2, padding=(1, 1)), KERNEL),
        (lambda seed, weight: torch.conv_transpose2d(seed, weight), TRANSPOSED),
        (lambda seed, weight: torch.conv_transpose2d(seed, weight, bias=None, stride=2), TRANSPOSED),
        (lambda seed, weight: functional.pad(seed, (1, 2)) * weight, drawn(8)),
    ],
    ids=["convolution", "options by name", "transpose", "transpose, options by name", "border"],
)
def test_traced_it_serves_any_batch_size(walk: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> None:
    """As emission traces it: behind vmap, with symbolic sizes."""

    def run(seeds: Tensor, weight: Tensor) -> Tensor:
        return at_once(lambda seed: walk(seed, weight), seeds)

    with python_dispatcher():
        traced = make_fx(run, tracing_mode="symbolic")(drawn(TARGETS, BATCH, 4, 5, 5), weight)

    seeds = drawn(TARGETS, 7, 4, 5, 5)
    expected = one_by_one(lambda seed: walk(seed, weight), seeds)
    torch.testing.assert_close(traced(seeds, weight), expected, rtol=1e-12, atol=1e-12)
