"""Pools over adaptive windows, convolutions with padding by name, borders that mirror."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.rules import POOL
from lrp_compiler.torch_private import OpOverload, known_size, statically_known_true

aten = torch.ops.aten


def adaptive_average(dims: int) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """Adaptive average pooling over the last `dims` dims, as a mean, a plain average pool, or a pool of its own."""
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[dims]

    def decomposed(tensor: Tensor, output_size: Sequence[int]) -> Tensor:
        sizes = list(tensor.shape[-dims:])
        wanted = [size if want is None else want for size, want in zip(sizes, output_size, strict=True)]
        if all(statically_known_true(want == 1) for want in wanted):
            return tensor.mean(list(range(-dims, 0)), keepdim=True)
        if all(statically_known_true(size % want == 0) for size, want in zip(sizes, wanted, strict=True)):
            return pool(tensor, [size // want for size, want in zip(sizes, wanted, strict=True)])
        matrices = [_averaging_matrix(size, want, tensor) for size, want in zip(sizes, wanted, strict=True)]
        windows: Tensor = POOL(tensor, matrices)
        return windows

    return decomposed


def _averaging_matrix(size: int, want: int, like: Tensor) -> Tensor:
    """`[want, size]`: row j averages the window of output j."""
    start, end = (edge.unsqueeze(-1) for edge in _window(size, want, like.device))
    columns = torch.arange(size, device=like.device)
    inside = (columns >= start) & (columns < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def _window(size: int, want: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First and last (exclusive) position of every adaptive window: ⌊j·size/want⌋ … ⌈(j+1)·size/want⌉."""
    columns = torch.arange(want, device=device)
    return columns * size // want, ((columns + 1) * size + want - 1) // want


def _longest(size: int, want: int) -> int:
    """The length of the longest window; of an open size a length that none exceeds."""
    if statically_known_true(size % want == 0):
        return size // want
    known, count = known_size(size), known_size(want)
    if known is None or count is None:
        return (size + want - 1) // want + 1
    return max((j + 1) * known // count + (((j + 1) * known) % count > 0) - j * known // count for j in range(count))


def adaptive_max(dims: int) -> Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]:
    """Adaptive max pooling over the last `dims` dims: every window gathered, then its first largest element."""

    def decomposed(tensor: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        sizes = list(tensor.shape[-dims:])
        wanted = [size if want is None else want for size, want in zip(sizes, output_size, strict=True)]
        windows = tensor
        places = torch.zeros((), dtype=torch.int64, device=tensor.device)
        for place, (size, want) in enumerate(zip(sizes, wanted, strict=True)):
            start, end = _window(size, want, tensor.device)
            reach = _longest(size, want)
            # A shorter window repeats its last position.
            positions = (start.unsqueeze(-1) + torch.arange(reach, device=tensor.device)).minimum(end.unsqueeze(-1) - 1)
            dim = windows.dim() - dims + place
            windows = windows.index_select(dim, positions.flatten())
            places = (places * size).unsqueeze(-1) + positions.flatten()
        lead = list(tensor.shape[:-dims])
        reaches = [windows.shape[tensor.dim() - dims + place] // want for place, want in enumerate(wanted)]
        split = [size for pair in zip(wanted, reaches, strict=True) for size in pair]
        order = [*range(0, 2 * dims, 2), *range(1, 2 * dims, 2)]
        windows = windows.reshape(lead + split).permute(
            [*range(len(lead)), *(len(lead) + position for position in order)]
        )
        windows = windows.flatten(-dims)
        places = places.reshape(split).permute(order).flatten(-dims)
        winners = windows.argmax(-1, keepdim=True)
        values = windows.amax(-1)
        return values, places.expand(windows.shape).gather(-1, winners).squeeze(-1)

    return decomposed


def max_unpool(dims: int) -> Callable[..., Tensor]:
    """Every value put back to the place that its index says, zeros elsewhere.

    Windows that overlap name a place several times, with one value: each has its share of it.
    """

    def decomposed(tensor: Tensor, indices: Tensor, output_size: Sequence[int], *options: object) -> Tensor:
        lead = list(tensor.shape[:-dims])
        cells = 1
        for size in output_size:
            cells = cells * size
        flat = torch.zeros([*lead, cells], dtype=tensor.dtype, device=tensor.device)
        places, values = indices.flatten(-dims), tensor.flatten(-dims)
        ones = torch.ones(values.shape, dtype=tensor.dtype, device=tensor.device)
        named = flat.scatter_add(-1, places, ones).gather(-1, places)
        filled = flat.scatter_add(-1, places, values / named)
        return filled.reshape([*lead, *output_size])

    return decomposed


def convolution_same(convolution: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution with padding "same" or "valid": the padding written out, the odd element at the end."""

    def decomposed(
        tensor: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        dims = weight.dim() - 2
        if padding == "valid":
            return convolution(tensor, weight, bias, stride, 0, dilation, groups)
        dilations = [dilation] * dims if isinstance(dilation, int) else list(dilation) * (dims // len(dilation))
        totals = [reach * (length - 1) for reach, length in zip(dilations, weight.shape[2:], strict=True)]
        even = [amount // 2 for amount in totals]
        if any(amount % 2 for amount in totals):
            tensor = functional.pad(tensor, [pad for amount in reversed(totals) for pad in (0, amount % 2)])
        return convolution(tensor, weight, bias, stride, even, dilation, groups)

    return decomposed


BORDERS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "reflect": lambda positions, size: (size - 1) - ((size - 1) - positions.abs()).abs(),
    "replicate": lambda positions, size: positions.clamp(0, size - 1),
    "circular": lambda positions, size: positions.remainder(size),
}
"""Mode of padding → which positions of the input lie at these, which reach over its ends."""


def pad(tensor: Tensor, pad: Sequence[Any], mode: str = "constant", value: float | None = None) -> Tensor:
    """A border: of one value, or of the tensor's own elements, looked up dim by dim."""
    if mode == "constant":
        bordered: Tensor = aten.constant_pad_nd.default(tensor, pad, 0.0 if value is None else value)
        return bordered
    for step in range(len(pad) // 2):
        before, after = pad[2 * step], pad[2 * step + 1]
        dim = tensor.dim() - 1 - step
        size = tensor.shape[dim]
        if mode == "circular":
            # Torch crops first, and goes round what is left.
            cropped = [-amount if statically_known_true(amount < 0) else 0 for amount in (before, after)]
            if any(cropped):
                tensor = aten.slice.Tensor(tensor, dim, cropped[0], size - cropped[1])
                size, before, after = tensor.shape[dim], before + cropped[0], after + cropped[1]
        if not statically_known_true(before == 0) or not statically_known_true(after == 0):
            positions = torch.arange(-before, size + after, device=tensor.device)
            tensor = tensor.index_select(dim, BORDERS[mode](positions, size))
    return tensor


def border(mode: str) -> Callable[[Tensor, Sequence[Any]], Tensor]:
    """A padding op that has its mode in its name."""
    return lambda tensor, padding: pad(tensor, padding, mode)


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten.adaptive_avg_pool1d.default: adaptive_average(1),
    aten.adaptive_avg_pool2d.default: adaptive_average(2),
    aten._adaptive_avg_pool2d.default: adaptive_average(2),
    aten.adaptive_avg_pool3d.default: adaptive_average(3),
    aten._adaptive_avg_pool3d.default: adaptive_average(3),
    aten.adaptive_max_pool1d.default: adaptive_max(1),
    aten.adaptive_max_pool2d.default: adaptive_max(2),
    aten.adaptive_max_pool3d.default: adaptive_max(3),
    aten.max_unpool2d.default: max_unpool(2),
    aten.max_unpool3d.default: max_unpool(3),
    aten.conv1d.padding: convolution_same(functional.conv1d),
    aten.conv2d.padding: convolution_same(functional.conv2d),
    aten.conv3d.padding: convolution_same(functional.conv3d),
    aten.pad.default: pad,
    aten._pad_circular.default: border("circular"),
    aten.reflection_pad1d.default: border("reflect"),
    aten.reflection_pad2d.default: border("reflect"),
    aten.reflection_pad3d.default: border("reflect"),
    aten.replication_pad1d.default: border("replicate"),
    aten.replication_pad2d.default: border("replicate"),
    aten.replication_pad3d.default: border("replicate"),
}
