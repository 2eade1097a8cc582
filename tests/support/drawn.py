"""Random arguments of ops, and whether something else computes what torch does of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

Case = Callable[[st.DrawFn], tuple[tuple[Any, ...], dict[str, Any]]]
"""Draws the arguments of a call."""
EXAMPLES = 15
small = st.integers(1, 4)


def drawing(examples: int, *phases: Phase) -> Callable[..., Any]:
    """So many examples, the same in every run. Without phases no smaller one is sought that fails, too: a graph takes a
    good part of a second to compile."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=phases or (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        database=None,
    )


def drawn(draw: st.DrawFn, *shape: int, ties: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers; with `ties` few different ones, zeros among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if ties:
        return torch.randint(-2, 3, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def shape_of(draw: st.DrawFn, least: int = 1, most: int = 3) -> list[int]:
    """A shape of so many dims."""
    return draw(st.lists(small, min_size=least, max_size=most))


def dim_of(draw: st.DrawFn, rank: int) -> int:
    """One of the dims, counted from either end."""
    return draw(st.integers(-rank, rank - 1))


def maybe(draw: st.DrawFn, make: Callable[[], Any]) -> Any:
    """What is made, or nothing."""
    return make() if draw(st.booleans()) else None


def computes_the_same(
    op: Callable[..., Any], written_out: Callable[..., Any], case: Case, results: Sequence[int] | None = None
) -> None:
    """Compare the two on drawn arguments, to the last digits of float64.

    Args:
        op: torch's own.
        written_out: what should compute the same.
        case: draws the arguments.
        results: which of several results matter; `None`: all.
    """

    @drawing(EXAMPLES, Phase.generate, Phase.shrink)
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        args, kwargs = case(data.draw)
        expected = op(*args, **kwargs)
        found = written_out(*args, **kwargs)
        assert found is not NotImplemented
        if isinstance(expected, Tensor):
            found, expected = [found], [expected]
        assert len(found) == len(expected)
        chosen = range(len(expected)) if results is None else results
        torch.testing.assert_close(
            [found[index] for index in chosen],
            [expected[index] for index in chosen],
            rtol=1e-12,
            atol=1e-12,
            equal_nan=True,
        )

    compare()
