"""What reduces a relevance, put into a graph: against numpy on the whole relevance, for batches of any size."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from lrp_compiler.base.reductions import LEAST
from lrp_compiler.passes.graph import copied
from lrp_compiler.passes.joint import reduce, row_sums
from lrp_compiler.passes.joint.reduce import REDUCTIONS, wide

Array = np.ndarray
R = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NUMBERS = R.numpy()


@pytest.fixture(scope="module")
def exported(graph_of: Callable) -> Callable[[Tensor], fx.GraphModule]:
    """A graph that hands back what it is given, of tensors of this kind and of any batch."""

    @cache
    def make(shape: tuple[int, ...], dtype: torch.dtype) -> fx.GraphModule:
        return graph_of(lambda relevance: relevance, torch.zeros(2, *shape, dtype=dtype), dynamic=True)

    return lambda given: copied(make(tuple(given.shape[1:]), given.dtype))


Run = Callable[..., tuple[Mapping[str, Tensor], set[int]]]


@pytest.fixture
def run(exported: Callable[[Tensor], fx.GraphModule]) -> Run:
    """The parts that stand for a relevance, and which names were taken."""

    def of(names: list[str], given: Tensor = R, lead: int = 1) -> tuple[Mapping[str, Tensor], set[int]]:
        module = exported(given)
        output = module.graph.output_node()
        (node,) = module.graph.find_nodes(op="placeholder")
        parts, taken = reduce(node, output, names, lead)
        output.args = (parts,)
        module.recompile()
        found: Any = module(given)
        return found, taken

    return of


def patches(relevance: Array, size: int) -> Array:
    """Sums of squares, the last ones of what is left: one patch after the other."""
    *_, height, width = relevance.shape
    rows = [
        np.stack([relevance[..., y : y + size, x : x + size].sum((-2, -1)) for x in range(0, width, size)], -1)
        for y in range(0, height, size)
    ]
    return np.stack(rows, -2)


BY_NUMPY: dict[str, Callable[[Array], Mapping[str, Array]]] = {
    "channels": lambda r: {"": r.sum(1)},
    "features": lambda r: {"": r.sum(-1)},
    "heads": lambda r: {"": r.sum((2, 3))},
    "patch:1": lambda r: {"": r},
    "patch:2": lambda r: {"": patches(r, 2)},
    "patch:7": lambda r: {"": patches(r, 7)},
    "patch:100": lambda r: {"": r.sum((-2, -1), keepdims=True)},
    "signs": lambda r: {"positive": np.maximum(r, 0), "negative": np.minimum(r, 0)},
    "float16": lambda r: {"": r.astype(np.float16)},
}


@pytest.mark.parametrize("name", BY_NUMPY)
def test_a_reduction_is_what_numpy_makes_of_the_relevance(name: str, run: Run) -> None:
    found, taken = run([name])

    wanted = BY_NUMPY[name](NUMBERS)
    assert taken == {0}
    assert found.keys() == wanted.keys()
    for part, value in wanted.items():
        assert found[part].numpy().dtype == value.dtype
        np.testing.assert_allclose(found[part].numpy(), value, rtol=1e-12, atol=1e-12)


def test_every_reduction_is_tried_here() -> None:
    assert {name.partition(":")[0] for name in BY_NUMPY} | {"top"} == REDUCTIONS.keys()
    assert REDUCTIONS.keys() <= LEAST.keys()


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_largest_are_found_with_their_places(count: int, run: Run) -> None:
    """Of fewer elements than are asked for, 12 here, the rest is −1 and 0."""
    given = R[:, 0, :3, :4]
    found, _ = run([f"top:{count}"], given)

    assert found.keys() == {"positions", "values"}
    assert found["positions"].dtype == torch.int64
    flat = given.flatten(1).numpy()
    for row, places, values in zip(flat, found["positions"].tolist(), found["values"].tolist(), strict=True):
        order = sorted(range(12), key=lambda at: -abs(row[at]))[:count]
        rest = count - len(order)
        assert places == [*order, *[-1] * rest]
        assert values == [*row[order], *[0.0] * rest]


def test_names_are_taken_one_after_the_other(run: Run) -> None:
    found, taken = run(["channels", "patch:2", "signs", "float16"])

    sums = patches(NUMBERS.sum(1), 2)
    assert taken == {0, 1, 2, 3}
    assert found.keys() == {"positive", "negative"}
    # A result next to the middle of two halves may be rounded to either: one unit in the last place.
    for part, value in (("positive", np.maximum(sums, 0)), ("negative", np.minimum(sums, 0))):
        np.testing.assert_allclose(found[part].double().numpy(), value, rtol=2**-10)


def test_relevance_of_too_few_dims_stays_as_it_is(run: Run) -> None:
    found, taken = run(["heads", "signs", "channels"], R[:, :, 0, 0])

    assert taken == {1}
    assert torch.equal(found["positive"] + found["negative"], R[:, :, 0, 0])


def test_dims_in_front_are_no_dims_of_the_relevance(run: Run) -> None:
    """Several targets stand in front of the batch."""
    found, taken = run(["channels", "channels"], R, lead=2)

    assert taken == {0}
    torch.testing.assert_close(found[""], R.sum(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lead", [1, 2, 4])
def test_the_sum_of_every_row(lead: int, exported: Callable[[Tensor], fx.GraphModule]) -> None:
    module = exported(R)
    output = module.graph.output_node()
    (node,) = module.graph.find_nodes(op="placeholder")
    output.args = (row_sums(node, output, lead),)
    module.recompile()

    np.testing.assert_allclose(module(R).numpy(), NUMBERS.reshape(*R.shape[:lead], -1).sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype, run: Run) -> None:
    """4096 + 1 is no number of either: summed in half precision one after the other is lost."""
    given = torch.cat([torch.full((2, 1, 1), 4096.0), torch.ones(2, 7, 1)], 1).to(dtype)

    found, _ = run(["channels"], given)

    assert found[""].dtype == torch.float32
    assert found[""].tolist() == [[4103.0], [4103.0]]
    assert wide(R) is R
