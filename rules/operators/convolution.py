"""Convolutions and transposed convolutions of one, two and three spatial dims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.rules.conditions import only
from lrp_compiler.rules.linear_map import Constant, LinearMap, Term
from lrp_compiler.rules.op import Op, per_dim
from lrp_compiler.rules.registry import operator
from lrp_compiler.rules.traits import Arguments, declare
from lrp_compiler.torch_private import known_size, statically_known_true

aten = torch.ops.aten

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSES: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


class Reach(TypedDict):
    """Which elements a kernel meets."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


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
    known = [known_size(extra) for extra in missing]
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


def correlate(
    q: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`Σ q xᵀ` over batch and positions, shaped like the weights: the convolution of x with q as its kernel.

    Batch and channels change places, and so do stride and dilation. Where strides left rows of x unread the result is
    larger than the kernel and is cropped.
    """
    dims = len(kernel)
    if x.dim() == dims + 1:
        x, q = x.unsqueeze(0), q.unsqueeze(0)
    if groups > 1:
        # [batch, groups · channels] → [channels, groups · batch]: each group keeps its own part of the batch dim.
        x = x.unflatten(1, (groups, x.shape[1] // groups)).transpose(0, 2).flatten(1, 2)
    else:
        x = x.transpose(0, 1)
    grown = CONVOLUTIONS[dims](x, q.transpose(0, 1), None, dilation, padding, stride, groups).transpose(0, 1)
    return crop(grown, kernel)


def crop(tensor: Tensor, size: Sequence[int | torch.SymInt]) -> Tensor:
    """The first `size` elements of the last dims."""
    for dim, length in enumerate(size, start=-len(size)):
        if not statically_known_true(tensor.shape[dim] == length):
            tensor = aten.slice.Tensor(tensor, dim, 0, length)
    return tensor


def channel_bias(op: Op, dims: int) -> tuple[Constant, ...]:
    """The optional bias, one for each output channel."""
    return (Constant("bias", lambda: op.tensor("bias").view(-1, *[1] * dims), "bias"),) if op.has("bias") else ()


def convolution_map(op: Op, **options: Unpack[Reach]) -> LinearMap:
    """`y = W ∗ x + b` with the stride, padding, dilation and groups of `options`."""
    weight = op.shape("weight")
    dims = len(weight) - 2
    size = op.shape("input")[-dims:]
    term = Term(
        "input",
        apply=lambda x, weight: CONVOLUTIONS[dims](x, weight, None, **options),
        transpose=lambda q, weight: transpose_convolution(q, weight, size, **options),
        weight=lambda: op.tensor("weight"),
        parameter="weight",
        weigh=lambda q, x: correlate(q, x, weight[2:], **options),
        fan_in=prod(weight[1:]),
        channel=-1 - dims,
    )
    return LinearMap((term,), channel_bias(op, dims))


def transposed_convolution_map(op: Op, output_padding: Sequence[int], **options: Unpack[Reach]) -> LinearMap:
    """`y = Wᵀ ∗ x + b`: its own transpose is the plain convolution."""
    weight = op.shape("weight")
    dims = len(weight) - 2
    size = op.shape("input")[-dims:]
    # A stride lets each output meet only every so manieth element of the kernel.
    met = [max(1, length // step) for length, step in zip(weight[2:], options["stride"], strict=True)]
    term = Term(
        "input",
        apply=lambda x, weight: TRANSPOSES[dims](x, weight, None, output_padding=output_padding, **options),
        transpose=lambda q, weight: crop(CONVOLUTIONS[dims](q, weight, None, **options), size),
        weight=lambda: op.tensor("weight"),
        parameter="weight",
        weigh=lambda q, x: correlate(x, q, weight[2:], **options),
        fan_in=prod([weight[0] // options["groups"], *met]),
        channel=-1 - dims,
    )
    return LinearMap((term,), channel_bias(op, dims))


CHANNEL_FIRST = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
"""Plain convolutions: dim 0 of the weights is the output channel."""
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
declare(*CHANNEL_FIRST, output_channel=0)
declare(aten.conv1d.default, bias_trails=1)
declare(aten.conv2d.default, bias_trails=2)


def is_transposed(given: Mapping[str, object]) -> bool:
    """Whether a call of a convolution is one of its transpose."""
    return bool(given.get("transposed", "output_padding" in given))


def _products(given: Arguments, result: Sequence[int]) -> int:
    """Each output meets one kernel; of a transposed convolution each input does."""
    met = given["input"] if is_transposed(given) else result
    return int(prod(met) * prod(given["weight"][1:]))


@operator(
    *CHANNEL_FIRST,
    *TRANSPOSED,
    aten.convolution.default,
    kind="convolution",
    channels=1,
    family="linear map",
    rule="epsilon",
    when=only("input"),
    bias="bias",
    products=_products,
)
def convolution(op: Op) -> LinearMap:
    """Convolution or transposed convolution with explicit padding, of up to three spatial dims."""
    dims = op.rank("weight") - 2
    options: dict[str, Any] = {name: per_dim(op.option(name), dims) for name in ("stride", "padding", "dilation")}
    options["groups"] = op.option("groups")
    if is_transposed(op.arguments):
        return transposed_convolution_map(op, per_dim(op.option("output_padding"), dims), **options)
    return convolution_map(op, **options)
