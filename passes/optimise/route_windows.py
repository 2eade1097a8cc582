"""Max pools whose windows do not overlap, explained without indices.

    scatter_add(0, indices of max_pool(x), R)    →    R where a window's largest element comes first

A window's elements are gone through in reading order: from the first of the largest on, the largest so far is the
window's (so the first of equals wins, as in torch), and R · [largest so far ≥ largest] steps from 0 to R there. The
largest so far is a max pool too, over the window's upper left corner, which a runtime does as fast as the pool itself;
the rest is a handful of elementwise operations on maps of the result's size. Indices are 64-bit, slow to find and slow
to scatter by.
"""

from __future__ import annotations

import operator
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional

from lrp_compiler.passes.graph.inline import write_out
from lrp_compiler.passes.graph.tools import arguments

aten = torch.ops.aten

LARGEST = 9
"""Elements of a window: the work grows with their number."""


def route_windows(module: fx.GraphModule) -> PassResult:
    """Rewrite the joint graph in place."""
    changed = False
    for node in module.graph.find_nodes(op="call_function", target=aten.scatter_add.default):
        found = _matched(node)
        if found is not None:
            x, relevance, size = found
            node.args, node.kwargs = (x, relevance), {}
            write_out(node, lambda x, r, size=size: routed(x, r, size))
            changed = True
    if changed:
        module.graph.eliminate_dead_code()
        module.recompile()
    return PassResult(module, changed)


def routed(x: Tensor, relevance: Tensor, size: int) -> Tensor:
    """Each window's relevance at its largest element.

    Args:
        x: `[…, height, width]`, both a multiple of `size`.
        relevance: `[…, height/size · width/size]`, the windows of a map in a row.
        size: of the windows, which are squares.

    Returns:
        `[…, height · width]`.
    """
    height, width = x.shape[-2:]
    windows = relevance.reshape(*x.shape[:-2], height // size, width // size)

    def largest(rows: int, columns: int) -> Tensor:
        """In the upper left corner of each window."""
        return functional.max_pool2d(x, (rows, columns), size)

    whole = largest(size, size)
    # R, if the largest is among the elements up to this one, in reading order.
    until: list[Tensor] = []
    for row, column in product(range(size), repeat=2):
        if (row, column) == (size - 1, size - 1):
            until.append(windows)
            continue
        best = largest(row + 1, column + 1)
        if row and column < size - 1:
            best = torch.maximum(best, largest(row, size))
        until.append(windows * (best >= whole).to(windows.dtype))
    shares = [until[0], *(after - before for before, after in pairwise(until))]
    # Column by column, then row by row: what `pixel_shuffle` does, several times as fast in onnxruntime.
    rows = [torch.stack(shares[start : start + size], -1).flatten(-2) for start in range(0, size * size, size)]
    return torch.stack(rows, -2).reshape(*x.shape[:-2], height * width)


def _matched(node: fx.Node) -> tuple[fx.Node, fx.Node, int] | None:
    """x, R and the window's size of `scatter_add(flatten(0), -1, flatten(indices), flatten(R))`."""
    into, dim, index, source = arguments(node)
    zeros, winners = _behind(into, aten.flatten.using_ints), _behind(index, aten.flatten.using_ints)
    pool = _behind(winners, operator.getitem)
    if dim != -1 or _behind(zeros, aten.zeros_like.default) is None or pool is None:
        return None
    if pool.target is not aten.max_pool2d_with_indices.default or arguments(winners)[1] != 1:
        return None
    given = arguments(pool)
    x, kernel, stride, padding, dilation, _ = (*given, *DEFAULTS[len(given) :])
    size = kernel[0]
    disjoint = list(kernel) == [size, size] and list(stride or kernel) == list(kernel)
    plain = not any(_pair(padding)) and _pair(dilation) == [1, 1] and size * size <= LARGEST
    covered = all(statically_known_true(length % size == 0) for length in x.meta["val"].shape[-2:])
    return (x, source, size) if disjoint and plain and covered and x.meta["val"].dim() in (3, 4) else None


DEFAULTS: list[Any] = [None, None, [], 0, 1, False]
"""x, kernel, stride, padding, dilation and ceil mode of a max pool."""


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _behind(node: Any, target: Any) -> Any:
    """The first argument of a call of `target`, `None` for anything else."""
    return arguments(node)[0] if isinstance(node, fx.Node) and node.target is target else None
