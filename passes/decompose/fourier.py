"""Fourier transforms as products with constant matrices of cosines and sines: linear maps, one a dim and part.

fft_r2c(x)      →      stack([x cos, −x sin], −1)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .complex_numbers import Pair, pair

Size = int | torch.SymInt


def waves(rows: Any, columns: Any, period: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """`cos` and `sin` of 2π·jk/period, `[rows, columns]`."""
    j, k = (torch.arange(count, device=like.device) for count in (rows, columns))
    turn = j.unsqueeze(-1) * k % period
    angle = turn.to(like.dtype) * (2 * math.pi / period)
    # sin π is no rounding error: by its sign the angle of a negative real number would be π or −π.
    return torch.cos(angle), torch.sin(angle) * (2 * turn % period != 0).to(like.dtype)


SCALES: dict[int, Callable[[Any], Any]] = {
    0: lambda count: 1.0,
    1: lambda count: count**-0.5,
    2: lambda count: 1 / count,
}
"""torch's numbers for how a transform is normalised."""


def _moved(tensor: Tensor, matrix: Tensor, dim: int) -> Tensor:
    return torch.matmul(tensor.transpose(dim, -1), matrix).transpose(dim, -1)


def transformed(value: Pair, dims: Sequence[int], normalization: int, forward: bool) -> Pair:
    """Fourier transform of a complex tensor: `e^{∓iθ} = cos θ ∓ i sin θ`, one matrix product a dim and part."""
    for dim in dims:
        place = dim % value.rank
        count = value.parts.shape[place]
        real, imaginary = value
        cos, sin = (wave * SCALES[normalization](count) for wave in waves(count, count, count, real))
        sin = sin if forward else -sin
        value = pair(
            _moved(real, cos, place) + _moved(imaginary, sin, place),
            _moved(imaginary, cos, place) - _moved(real, sin, place),
        )
    return value


def transformed_real(tensor: Tensor, dims: Sequence[int], normalization: int, onesided: bool) -> Pair:
    """Fourier transform of a real tensor, perhaps only the first half of it along the last of the dims."""
    *others, last = (dim % tensor.dim() for dim in dims)
    count = tensor.shape[last]
    kept = count // 2 + 1 if onesided else count
    cos, sin = (wave * SCALES[normalization](count) for wave in waves(count, kept, count, tensor))
    return transformed(pair(_moved(tensor, cos, last), _moved(tensor, 0 - sin, last)), others, normalization, True)


def transformed_to_real(value: Pair, dims: Sequence[int], normalization: int, last_dim_size: Size) -> Tensor:
    """Inverse transform of the first half of a transform, to a real tensor."""
    *others, last = (dim % value.rank for dim in dims)
    count = last_dim_size
    real, imaginary = transformed(value, others, normalization, False)
    kept = real.shape[last]
    cos, sin = (wave * SCALES[normalization](count) for wave in waves(kept, count, count, real))
    # The other half is the conjugate of this one, but for the first element and, of an even count, the middle one.
    k = torch.arange(kept, device=real.device)
    twice = 2.0 - ((k == 0) | (2 * k == count)).to(real.dtype)
    return _moved(real, cos * twice.unsqueeze(-1), last) - _moved(imaginary, sin * twice.unsqueeze(-1), last)


TRANSFORMS: dict[object, Callable[..., Pair | Tensor]] = {
    torch.ops.aten._fft_c2c.default: transformed,
    torch.ops.aten._fft_r2c.default: transformed_real,
    torch.ops.aten._fft_c2r.default: transformed_to_real,
}
"""What they are on pairs."""
