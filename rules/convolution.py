"""Convolutions of one, two and three spatial dims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .linear_map import LinearMap, Term
from .op import Op, only
from .registry import operator
from .relevance import as_int

aten = torch.ops.aten

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSES: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def per_dim(value: int | Sequence[int], dims: int) -> list[int]:
    """One value for each spatial dim, from a single value or a list of one."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def transpose_convolution(
    q: Tensor,
    weight: Tensor,
    size: Sequence[int | torch.SymInt],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`Wᵀ q`, of spatial size `size`: the transposed convolution that undoes no more than the forward one did.

    Strides drop up to `stride − 1` rows at the end of the input; they come back as zeros (`output_padding`). How many
    depends on the size: where that is symbolic the most are taken, and the surplus is cut off.
    """
    dims = len(size)
    kernel = weight.shape[2:]
    missing = [
        size[i] - ((q.shape[i - dims] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
        for i in range(dims)
    ]
    known = [as_int(extra) for extra in missing]
    exact = [stride[i] - 1 if extra is None else extra for i, extra in enumerate(known)]
    # A transposed convolution may add less than a stride or a dilation; what is missing beyond that is padded, and
    # where the forward windows reached over the border (ceil_mode) the surplus is cropped.
    allowed = [max(0, min(extra, max(stride[i], dilation[i]) - 1)) for i, extra in enumerate(exact)]
    grown = TRANSPOSES[dims](q, weight, None, stride, padding, allowed, groups, dilation)
    for i, extra in enumerate(known):
        if extra is None and stride[i] > 1:
            grown = aten.slice.Tensor(grown, i - dims, 0, size[i])
    beyond = [want - have for want, have in zip(exact, allowed, strict=True)]
    if any(beyond):
        grown = functional.pad(grown, [amount for extra in reversed(beyond) for amount in (0, extra)])
    return grown


def convolution_map(op: Op, **options: Any) -> LinearMap:
    """`y = W ∗ x + b` with the stride, padding, dilation and groups of `options`."""
    weight = op.shape("weight")
    size = op.shape("input")[2 - len(weight) :]
    fan_in = 1
    for length in weight[1:]:
        fan_in *= length
    term = Term(
        "input",
        apply=lambda x, weight: CONVOLUTIONS[len(size)](x, weight, None, **options),
        transpose=lambda q, weight: transpose_convolution(q, weight, size, **options),
        weight=lambda: op.tensor("weight"),
        fan_in=fan_in,
    )
    bias = {"bias": lambda: op.tensor("bias").view(-1, *[1] * len(size))} if op.has("bias") else {}
    return LinearMap((term,), bias)


@operator(
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    kind="convolution",
    family="linear map",
    rule="epsilon",
    when=only("input"),
)
def convolution(op: Op) -> LinearMap:
    """Convolution with explicit padding."""
    dims = op.rank("weight") - 2
    options = {name: per_dim(op.option(name), dims) for name in ("stride", "padding", "dilation")}
    return convolution_map(op, groups=op.option("groups"), **options)


@operator(
    aten.convolution.default,
    kind="convolution",
    family="linear map",
    rule="epsilon",
    when=lambda op: op.active == ("input",) and not op.option("transposed"),
)
def plain_convolution(op: Op) -> LinearMap:
    """Convolution of any number of spatial dims, as fully decomposed programs have it."""
    return convolution(op)
