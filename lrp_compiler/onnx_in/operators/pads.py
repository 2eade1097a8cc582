"""Tensors made larger, or smaller, at their ends."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrp_compiler.base.errors import FormatError

from ..registry import Known, onnx_op
from ..sizes import Sizes


@onnx_op("Pad", since=1)
def pad_attributes(x: Tensor, *, pads: list[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """With elements at the ends of all dims (until opset 10)."""
    return _padded(x, pads, list(range(x.dim())), mode, value)


@onnx_op("Pad", since=11)
def pad(
    x: Tensor, pads: Sizes, value: Known | None = None, axes: Sizes | None = None, *, mode: str = "constant"
) -> Tensor:
    """With elements at the ends of dims: a number, the last ones mirrored or repeated, or those of the other end."""
    dims = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes.list()]
    if isinstance(value, Tensor):  # calculated
        inside = _padded(torch.ones_like(x, dtype=torch.bool), pads.list(), dims, mode, 0)
        return torch.where(inside, _padded(x, pads.list(), dims, mode, 0), value.to(x.dtype))
    return _padded(x, pads.list(), dims, mode, 0.0 if value is None else value.one())


def _padded(x: Tensor, pads: list[Any], dims: list[int], mode: str, value: Any) -> Tensor:
    around = dict(zip(dims, zip(pads[: len(dims)], pads[len(dims) :], strict=True), strict=True))
    around = {dim: ends for dim, ends in around.items() if not all(isinstance(end, int) and end == 0 for end in ends)}
    if not around:
        return x
    if mode == "constant":
        pairs = [end for dim in reversed(range(min(around), x.dim())) for end in around.get(dim, (0, 0))]
        filling = bool(value) if x.dtype == torch.bool else value if x.is_floating_point() else int(value)
        return F.pad(x, pairs, value=filling)
    fits = (
        2 < x.dim() <= 5
        and min(around) >= 2
        and all(isinstance(end, int) and end >= 0 for e in around.values() for end in e)
    )
    if fits and mode in ("reflect", "edge") and x.is_floating_point():
        pairs = [end for dim in reversed(range(2, x.dim())) for end in around.get(dim, (0, 0))]
        return F.pad(x, pairs, mode="reflect" if mode == "reflect" else "replicate")
    for dim, (before, behind) in around.items():
        x = x.index_select(dim, _places(x.shape[dim], before, behind, mode))
    return x


def _places(size: Any, before: Any, behind: Any, mode: str) -> Tensor:
    """Which element stands at each place."""
    places = torch.arange(-before, size + behind)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    if mode != "reflect":
        raise FormatError(f"The mode of a Pad is {mode!r}, and can be constant, reflect, edge or wrap.")
    period = torch.sym_max(2 * (size - 1), 1)
    folded = places % period
    return torch.minimum(folded, period - folded)


@onnx_op("CenterCropPad")
def center_crop_pad(x: Tensor, shape: Sizes, *, axes: list[int] | None = None) -> Tensor:
    """The middle of this size, or zeros around."""
    dims = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    for dim, wanted in zip(dims, shape.list(), strict=True):
        size = x.shape[dim]
        if wanted <= size:
            x = x.narrow(dim, (size - wanted) // 2, wanted)
        else:
            before = (wanted - size) // 2
            x = F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [before, wanted - size - before])
    return x
