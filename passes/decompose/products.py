"""Maps whose weights are computed from the input, as the products of two activations that they are.

linear(x, w, b)         →    matmul(x, transpose(w)) + b         w computed, as by a network that makes weights
addmm(b, x, y)          →    b + mm(x, y)
convolution(x, w, b)    →    matmul(w, windows of x) + b         one shifted slice of x for each weight
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from lrp_compiler.passes.graph import Result, arguments, is_tensor, write_out

aten = torch.ops.aten


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b`."""
    return _plus(torch.matmul(x, weight.transpose(-1, -2) if weight.dim() > 1 else weight), bias)


def addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`β b + α A B`."""
    result = torch.mm(left, right)
    return (result if alpha == 1 else result * alpha) + (bias if beta == 1 else bias * beta)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """A convolution over 1, 2 or 3 spatial dims, with `weight` `[out, in / groups, *kernel]`."""
    dims = weight.dim() - 2
    if x.dim() == dims + 1:
        return convolution(x.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    steps, pads, reaches = ([*given] * (dims // len(given)) for given in (stride, padding, dilation))
    if any(pads):
        x = functional.pad(x, [side for pad in reversed(pads) for side in (pad, pad)])
    kernel, sizes = weight.shape[2:], x.shape[2:]
    wanted = [
        (size - reach * (k - 1) - 1) // step + 1
        for size, reach, k, step in zip(sizes, reaches, kernel, steps, strict=True)
    ]
    slices = []
    for place in product(*map(range, kernel)):
        piece = x
        for dim, (index, reach, step, want) in enumerate(zip(place, reaches, steps, wanted, strict=True), start=2):
            start = index * reach
            piece = aten.slice.Tensor(piece, dim, start, start + (want - 1) * step + 1, step)
        slices.append(piece)
    windows = torch.stack(slices, 2).reshape(x.shape[0], groups, x.shape[1] // groups * len(slices), -1)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    result = torch.matmul(rows, windows).reshape(x.shape[0], weight.shape[0], *wanted)
    return _plus(result, None if bias is None else bias.reshape(-1, *[1] * dims))


def _plus(result: Tensor, bias: Tensor | None) -> Tensor:
    return result if bias is None else result + bias


WRITTEN_OUT: dict[Any, tuple[int, Callable[..., Tensor]]] = {
    aten.linear.default: (0, linear),
    aten.addmm.default: (1, addmm),
    aten.conv1d.default: (0, convolution),
    aten.conv2d.default: (0, convolution),
    aten.conv3d.default: (0, convolution),
}
"""Where the two operands of the product begin among the arguments, and what is written."""


def write_out_products(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    computed: set[fx.Node] = set()
    found = []
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(is_tensor(source) and source in computed for source in node.all_input_nodes):
            computed.add(node)
        if node.target in WRITTEN_OUT:
            first = WRITTEN_OUT[node.target][0]
            if computed.issuperset(arguments(node)[first : first + 2]):
                found.append(node)
    for node in found:
        write_out(node, WRITTEN_OUT[node.target][1])
    module.recompile()
    return Result(module, bool(found))
