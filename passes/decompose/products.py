"""Maps whose weights or biases are computed from the input: products of matrices, and sums.

linear(x, w, b)         →    matmul(x, transpose(w)) + b         w computed, as by a network that makes weights
addmm(b, x, y)          →    b + mm(x, y)                     also of a matrix and a vector, and of two vectors
convolution(x, w, b)    →    matmul(w, windows of x) + b         one shifted slice of x for each weight
layer_norm(x, w, b)     →    layer_norm(x) * w + b
conv_transpose(x, w)    →    convolution(x with zeros between, w turned round)

x may be a constant, as the first image of a network that makes pictures out of a style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, fx
from torch.nn import functional

from lrp_compiler.passes.graph import Result, is_tensor, write_out
from lrp_compiler.rules import CHANNEL_FIRST, TRANSPOSED, bind

aten = torch.ops.aten


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b`."""
    return _plus(torch.matmul(x, weight.transpose(-1, -2) if weight.dim() > 1 else weight), bias)


def addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`β b + α A B`."""
    result = torch.mm(left, right)
    return (result if alpha == 1 else result * alpha) + (bias if beta == 1 else bias * beta)


def addmv(bias: Tensor, matrix: Tensor, vector: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`β b + α A v`."""
    result = mv(matrix, vector)
    return (result if alpha == 1 else result * alpha) + (bias if beta == 1 else bias * beta)


def mv(matrix: Tensor, vector: Tensor) -> Tensor:
    """`A v`, v being a matrix of one column."""
    return torch.mm(matrix, vector.unsqueeze(1)).squeeze(1)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """`aᵀ b`."""
    return torch.mm(left.unsqueeze(0), right.unsqueeze(1)).reshape(())


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


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    """A transposed convolution over 1, 2 or 3 spatial dims, with `weight` `[in, out / groups, *kernel]`."""
    dims = weight.dim() - 2
    steps, pads, more, reaches = (
        [*given] * (dims // len(given)) for given in (stride, padding, output_padding, dilation)
    )
    borders = []
    for dim, step in enumerate(steps, start=x.dim() - dims):
        if step > 1:  # zeros between the elements, none behind the last one
            size = x.shape[dim]
            zeros = torch.zeros(x.shape, dtype=x.dtype, device=x.device).unsqueeze(dim + 1)
            x = torch.cat([x.unsqueeze(dim + 1), *[zeros] * (step - 1)], dim + 1).flatten(dim, dim + 1)
            x = aten.slice.Tensor(x, dim, 0, (size - 1) * step + 1)
    for k, pad, extra, reach in zip(weight.shape[2:], pads, more, reaches, strict=True):
        border = reach * (k - 1) - pad
        borders.append((border, border + extra))
    x = functional.pad(x, [side for pair in reversed(borders) for side in pair])
    turned = weight.unflatten(0, (groups, weight.shape[0] // groups)).transpose(1, 2).flatten(0, 1)
    return convolution(x, turned.flip(list(range(2, 2 + dims))), bias, (1,), (0,), reaches, groups)


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    """The norm without weights, times those computed."""
    result = functional.layer_norm(x, shape, None, None, eps)
    return _plus(result if weight is None else result * weight, bias)


def _plus(result: Tensor, bias: Tensor | None) -> Tensor:
    return result if bias is None else result + bias


@dataclass(frozen=True)
class Map:
    """A map that can be written out.

    Args:
        write: the function that does so.
        operands: names of its input, its weights and its bias.
        takes: which of them may be active alone: there is a rule.
    """

    write: Callable[..., Tensor]
    operands: tuple[str, str, str] = ("input", "weight", "bias")
    takes: tuple[str, ...] = ("input",)


WRITTEN_OUT: dict[object, Map] = {
    aten.linear.default: Map(linear),
    aten.addmm.default: Map(addmm, ("mat1", "mat2", "self"), ("mat1", "mat2")),
    aten.addmv.default: Map(addmv, ("mat", "vec", "self"), ("mat", "vec")),
    aten.mv.default: Map(mv, ("self", "vec", ""), ("self", "vec")),
    aten.dot.default: Map(dot, ("self", "tensor", ""), ("self", "tensor")),
    aten.layer_norm.default: Map(layer_norm),
    **dict.fromkeys(CHANNEL_FIRST, Map(convolution)),
    **dict.fromkeys(TRANSPOSED, Map(transposed_convolution)),
}


def write_out_products(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    computed: set[fx.Node] = set()
    found = []
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(is_tensor(source) and source in computed for source in node.all_input_nodes):
            computed.add(node)
        if node.target in WRITTEN_OUT:
            known = WRITTEN_OUT[node.target]
            given = bind(node.target, node.args, node.kwargs)
            varying = [name for name in known.operands if given.get(name) in computed]
            if varying and (len(varying) > 1 or varying[0] not in known.takes):
                found.append(node)
    for node in found:
        write_out(node, WRITTEN_OUT[node.target].write)
    return Result(module, bool(found))
