"""Pooling: the winner takes all of a max pool, an average pool is a linear map."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.rules.conditions import only
from lrp_compiler.rules.linear_map import LinearMap, Term, Weight, scaled
from lrp_compiler.rules.near_ties import Extreme
from lrp_compiler.rules.op import Op, per_dim
from lrp_compiler.rules.registry import Overload, operator
from lrp_compiler.rules.selection import Selection, selection
from lrp_compiler.rules.traits import keeps_sign

from .convolution import CONVOLUTIONS, transpose_convolution
from .interpolation import Separable, along

aten = torch.ops.aten

DIMS: dict[Overload, int] = {
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
}
"""Spatial dims."""
MAX_POOLS: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {
    1: functional.max_pool1d_with_indices,
    2: functional.max_pool2d_with_indices,
    3: functional.max_pool3d_with_indices,
}
AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


@selection(
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    kind="max pool",
    channels=1,
    sign=keeps_sign(),
    extreme=1,
)
def max_pool(op: Op) -> Selection:
    """Each window's largest element, the first one of equals."""
    dims = DIMS[op.target]
    kernel, padding, dilation = (per_dim(op.option(name), dims) for name in ("kernel_size", "padding", "dilation"))
    stride = per_dim(op.option("stride") or kernel, dims)

    def first_wins(r: Tensor) -> Tensor:
        x = op.tensor("self")
        _, winners = MAX_POOLS[dims](x, kernel, stride, padding, dilation, op.option("ceil_mode"))
        flat = torch.zeros_like(x).flatten(-dims)
        return flat.scatter_add(-1, winners.flatten(-dims), r.flatten(-dims)).reshape(x.shape)

    shape, size = op.shape("self"), op.shape("self")[-dims:]
    windows = {"stride": stride, "dilation": dilation}
    count = math.prod(kernel)

    def one_at_each(like: Tensor) -> Tensor:
        """A kernel for each place of a window, which reads that place alone."""
        return torch.eye(count, dtype=like.dtype, device=like.device).reshape(count, 1, *kernel)

    def candidates() -> tuple[Tensor, Tensor | None]:
        x, counted = op.tensor("self").reshape(-1, 1, *size), op.output.shape[-dims:]
        # A masked score is −∞, which times a kernel's zeros would be NaN.
        x = x.clamp(torch.finfo(x.dtype).min, torch.finfo(x.dtype).max)
        # The last windows of ceil_mode reach over the padding, too.
        reached = [(counted[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(dims)]
        border = [(padding[i], reached[i] - padding[i] - size[i]) for i in range(dims)]
        sides = [amount for both in reversed(border) for amount in both]
        values = CONVOLUTIONS[dims](functional.pad(x, sides), one_at_each(x), **windows)
        if not any(padding) and not op.option("ceil_mode"):
            return values, None
        inside = functional.pad(torch.ones_like(x[:1]), sides)
        return values, CONVOLUTIONS[dims](inside, one_at_each(x), **windows) == 0

    def back(q: Tensor) -> Tensor:
        grown = transpose_convolution(q, one_at_each(q), size, **windows, padding=padding, groups=1)
        return grown.reshape(shape)

    def spread(value: Tensor) -> Tensor:
        return value.reshape(-1, 1, *value.shape[-dims:])

    return {"self": Extreme(first_wins, candidates, spread, (1,), back)}


@operator(
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    kind="average",
    family="linear map",
    rule="epsilon",
    sign=keeps_sign(),
)
def average_pool(op: Op) -> LinearMap:
    """Mean over windows, as a convolution of each channel with equal weights.

    Windows that reach over the border have their own divisor (`count_include_pad=False`, `ceil_mode`): it is what the
    pool makes of ones.
    """
    dims = DIMS[op.target]
    kernel, padding = per_dim(op.option("kernel_size"), dims), per_dim(op.option("padding"), dims)
    stride = per_dim(op.option("stride") or kernel, dims)
    ceil, include = op.option("ceil_mode"), op.option("count_include_pad")
    fixed = op.arguments.get("divisor_override")
    shape = op.shape("self")
    size, channels = shape[-dims:], shape[-dims - 1]
    count = 1
    for length in kernel:
        count *= length

    def apply(x: Tensor, weight: Weight) -> Tensor:
        extra = () if fixed is None else (fixed,)
        return scaled(AVERAGE_POOLS[dims](x, kernel, stride, padding, ceil, include, *extra), weight)

    def transpose(q: Tensor, weight: Weight) -> Tensor:
        uneven = fixed is None and (ceil or (not include and any(padding)))
        q = q / (inside(q) if uneven else count if fixed is None else fixed)
        ones = torch.ones((channels, 1, *kernel), dtype=q.dtype, device=q.device)
        return transpose_convolution(
            scaled(q, weight), ones, size, stride=stride, padding=padding, dilation=[1] * dims, groups=channels
        )

    def inside(q: Tensor) -> Tensor:
        """How many elements each window is divided by: those inside the input, or inside the padded input."""
        counted = [length + 2 * pad if include else length for length, pad in zip(size, padding, strict=True)]
        reached = [(q.shape[i - dims] - 1) * stride[i] + kernel[i] for i in range(dims)]
        before = [0 if include else pad for pad in padding]
        border = [(first, end - first - length) for first, end, length in zip(before, reached, counted, strict=True)]
        ones = torch.ones((1, 1, *counted), dtype=q.dtype, device=q.device)
        padded = functional.pad(ones, [amount for sides in reversed(border) for amount in sides])
        return CONVOLUTIONS[dims](padded, torch.ones((1, 1, *kernel), dtype=q.dtype, device=q.device), stride=stride)

    return LinearMap((Term("self", apply, transpose, channel=-1 - dims),))


_LIBRARY = torch.library.Library("lrp", "FRAGMENT")
_LIBRARY.define("pool(Tensor self, Tensor[] matrices) -> Tensor")
_LIBRARY.impl("pool", along, "CompositeExplicitAutograd")
torch.library.register_fake("lrp::pool", along, lib=_LIBRARY)

POOL = torch.ops.lrp.pool.default
"""An average over windows of unequal size: a matrix `[windows, positions]` for each of the last dims, as one map.

Decompositions write it where no plain pool will do; it becomes matmuls before the explainer is handed out."""


@operator(POOL, kind="average", family="linear map", rule="epsilon", when=only("self"), lowered=along)
def pool(op: Op) -> LinearMap:
    """Means over windows; the positions outside a window are not connected to it."""
    dims = len(op.option("matrices"))
    term = Term(
        "self",
        apply=lambda x, weight: weight.apply(x),
        transpose=lambda q, weight: weight.transpose(q),
        weight=lambda: Separable((tuple(op.tensor(f"matrices.{dim}") for dim in range(dims)),), nonnegative=True),
        channel=-1 - dims,
    )
    return LinearMap((term,))
