"""Spectra, and windows for them."""

from __future__ import annotations

from math import pi
from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op
from ..sizes import Sizes
from ..tensors import dtype_of


def _window(size: Sizes, periodic: int, dtype: int, terms: tuple[float, ...]) -> Tensor:
    """`Σ (−1)ᵏ aₖ cos(2πkn/N)`."""
    length = size.one()
    steps = torch.arange(length, dtype=torch.float64)
    whole = length if periodic else length - 1
    parts = [(-1) ** k * a * torch.cos(steps * (2 * pi * k) / whole) for k, a in enumerate(terms)]
    return torch.stack(parts).sum(0).to(dtype_of(dtype, "A window"))


@onnx_op("HannWindow")
def hann_window(size: Sizes, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    """`1/2 − 1/2 cos`."""
    return _window(size, periodic, output_datatype, (0.5, 0.5))


@onnx_op("HammingWindow")
def hamming_window(size: Sizes, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    """`25/46 − 21/46 cos`."""
    return _window(size, periodic, output_datatype, (25 / 46, 21 / 46))


@onnx_op("BlackmanWindow")
def blackman_window(size: Sizes, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    """`0.42 − 0.5 cos + 0.08 cos 2`."""
    return _window(size, periodic, output_datatype, (0.42, 0.5, 0.08))


@onnx_op("MelWeightMatrix")
def mel_weights(
    bins: Sizes, length: Sizes, rate: Sizes, low: Sizes, high: Sizes, *, output_datatype: int = 1
) -> Tensor:
    """Triangles on the mel scale, `2595 log₁₀(1 + f/700)`: `[length // 2 + 1, bins]`."""
    count, size = bins.one(), length.one()
    ends = [2595 * torch.log10(torch.tensor(1 + one.one() / 700, dtype=torch.float64)) for one in (low, high)]
    places = ends[0] + torch.arange(count + 2, dtype=torch.float64) * (ends[1] - ends[0]) / (count + 2)
    hertz = 700 * (10 ** (places / 2595) - 1)
    at = torch.floor((size + 1) * hertz / rate.one())
    rows = torch.arange(size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    left, centre, right = at[:-2], at[1:-1], at[2:]
    rising = torch.where(centre > left, (rows - left) / (centre - left), (rows == centre).double())
    falling = (right - rows) / (right - centre)
    inside = torch.where((rows >= left) & (rows <= centre), rising, torch.zeros(()).double())
    weights = torch.where((rows > centre) & (rows < right), falling, inside)
    return weights.to(dtype_of(output_datatype, "A window"))


@onnx_op("DFT", since=17)
def fourier_attribute(
    x: Tensor, length: Sizes | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Along an axis that an attribute says (opset 17)."""
    return fourier(x, length, Sizes.of(axis), inverse=inverse, onesided=onesided)


@onnx_op("DFT", since=20)
def fourier(
    x: Tensor, length: Sizes | None = None, axis: Sizes | None = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Sums of cosines and sines along an axis, real and imaginary parts in the last dim: two products of matrices."""
    dim = (axis.one() if axis is not None else -2) % x.dim()
    size = x.shape[dim] if length is None else length.one()
    real_only = x.shape[-1] == 1
    if inverse and onesided:
        return _inverse_onesided(x, dim, size)
    count = min(x.shape[dim], size) if isinstance(size, int) and isinstance(x.shape[dim], int) else x.shape[dim]
    moved = x.narrow(dim, 0, count).movedim(dim, -2)
    outs = size // 2 + 1 if onesided else size
    cos, sin = _waves(count, outs, size, x.dtype)
    sin = sin if inverse else -sin
    real = moved[..., 0]
    re, im = torch.matmul(real, cos), torch.matmul(real, sin)
    if not real_only:
        imaginary = moved[..., 1]
        re, im = re - torch.matmul(imaginary, sin), im + torch.matmul(imaginary, cos)
    result = torch.stack([re, im], -1).movedim(-2, dim)
    return result / size if inverse else result


def _waves(count: Any, outs: Any, size: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`[count, outs]` cosines and sines, worked out in float64."""
    rows, columns = torch.arange(count).unsqueeze(1), torch.arange(outs)
    angle = ((rows * columns) % size).to(torch.float64) * (2 * pi / size)
    return torch.cos(angle).to(dtype), torch.sin(angle).to(dtype)


def _inverse_onesided(x: Tensor, dim: int, size: Any) -> Tensor:
    """Real values from half a spectrum, whose other half mirrors it."""
    if isinstance(size, int) and size == x.shape[dim]:
        size = 2 * (size - 1)
    moved = x.movedim(dim, -2)[..., : size // 2 + 1, :]
    count = moved.shape[-2]
    cos, sin = _waves(count, size, size, x.dtype)
    twice = torch.full((count,), 2.0, dtype=x.dtype)
    places = torch.arange(count)
    twice = torch.where((places == 0) | (2 * places == size), torch.ones_like(twice), twice)
    real, imaginary = moved[..., 0] * twice, moved[..., 1] * twice
    values = (torch.matmul(real, cos) - torch.matmul(imaginary, sin)) / size
    return values.unsqueeze(-1).movedim(-2, dim)


@onnx_op("STFT")
def short_time_fourier(
    signal: Tensor, step: Sizes, window: Tensor | None = None, length: Sizes | None = None, *, onesided: int = 1
) -> Tensor:
    """Spectra of windows: `[batch, frames, frequencies, 2]`."""
    size = window.shape[0] if length is None and window is not None else length.one() if length is not None else 0
    frames = signal.movedim(1, -1).unfold(-1, size, step.one())  # [batch, parts, frames, size]
    if window is not None:
        frames = frames * window
    return fourier(frames.permute(0, 2, 3, 1), None, Sizes.of(2), onesided=onesided)
