"""Fourier transforms as products of matrices: against torch's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.decompose.complex_numbers import Pair
from lrp_compiler.passes.decompose.fourier import SCALES, TRANSFORMS, waves

aten = torch.ops.aten
NORMALIZATIONS = sorted(SCALES)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def run(target: Any, value: Tensor, *args: Any) -> Tensor:
    given = Pair(torch.view_as_real(value)) if value.is_complex() else value
    found = TRANSFORMS[target](given, *args)
    result: Tensor = torch.view_as_complex(found.parts.contiguous()) if isinstance(found, Pair) else found
    return result


def same(target: Any, value: Tensor, dims: list[int], *args: Any) -> None:
    """By torch's op, which wants its dims counted from the front."""
    wanted = target(value, [dim % value.dim() for dim in dims], *args)
    torch.testing.assert_close(run(target, value, dims, *args), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dims", [[0], [-1], [0, 2], [2, 1, 0]], ids=str)
@pytest.mark.parametrize("forward", [True, False])
def test_of_complex_numbers(dims: list[int], normalization: int, forward: bool) -> None:
    value = torch.complex(drawn(2, 5, 6), drawn(2, 6, 5).transpose(1, 2))

    same(aten._fft_c2c.default, value, dims, normalization, forward)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("shape", [(3, 8), (3, 7), (2, 1)], ids=str)
@pytest.mark.parametrize("onesided", [True, False])
def test_of_real_numbers(shape: tuple[int, ...], normalization: int, onesided: bool) -> None:
    same(aten._fft_r2c.default, drawn(*shape), [-1], normalization, onesided)
    same(aten._fft_r2c.default, drawn(*shape), [1, 0], normalization, onesided)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("length", [6, 7, 4])
def test_back_to_real_numbers(length: int, normalization: int) -> None:
    """Of a half that is no transform of real numbers, too: its first and middle elements have imaginary parts."""
    half = torch.complex(drawn(3, length // 2 + 1), drawn(length // 2 + 1, 3).T)

    same(aten._fft_c2r.default, half, [1], normalization, length)
    same(aten._fft_c2r.default, half, [0, 1], normalization, length)


@pytest.mark.parametrize("count", [1, 2, 6, 7])
def test_a_half_turn_has_a_sine_of_nothing(count: int) -> None:
    """The transform of −1 at the middle is real: its angle is π by the sign of a zero, not by a rounding error."""
    cos, sin = waves(count, count, count, drawn(1))

    for j in range(count):
        for k in range(count):
            if 2 * j * k % count == 0:
                assert (sin[j, k], abs(cos[j, k])) == (0, 1)
