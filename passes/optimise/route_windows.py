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
from torch.nn import functional

from lrp_compiler.passes.graph import Result, arguments, write_out
from lrp_compiler.rules import bind, per_dim
from lrp_compiler.torch_private import statically_known_true

aten = torch.ops.aten

LARGEST = 9
"""Elements of a window: the work grows with their number."""


def route_windows(module: fx.GraphModule) -> Result:
    """Rewrite the joint graph in place."""
    changed, declined = False, []
    for node in module.graph.find_nodes(op="call_function", target=aten.scatter_add.default):
        pool = _pool_behind(node)
        if pool is None:
            continue
        size, reason = _window(pool)
        if reason:
            declined.append((node.name, reason))
        else:
            x, relevance = arguments(pool)[0], arguments(node)[3]
            node.args, node.kwargs = (x, relevance), {}
            write_out(node, lambda x, r, size=size: routed(x, r, size))
            changed = True
    if changed:
        module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


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


def _pool_behind(node: fx.Node) -> fx.Node | None:
    """The pool of `scatter_add(flatten(0), -1, flatten(indices of the pool), flatten(R))`."""
    into, dim, index, _ = arguments(node)
    zeros, winners = _behind(into, aten.flatten.using_ints), _behind(index, aten.flatten.using_ints)
    pool = _behind(winners, operator.getitem)
    if dim != -1 or _behind(zeros, aten.zeros_like.default) is None or pool is None:
        return None
    routed = pool.target is aten.max_pool2d_with_indices.default and arguments(winners)[1] == 1
    return pool if routed else None


def _window(pool: fx.Node) -> tuple[int, str]:
    """Size of the pool's windows, and what is wrong with them, if anything is."""
    given = bind(pool.target, pool.args, pool.kwargs)
    kernel, padding, dilation = (per_dim(given[name], 2) for name in ("kernel_size", "padding", "dilation"))
    stride = per_dim(given["stride"] or kernel, 2)
    size, shape = kernel[0], given["self"].meta["val"].shape
    problems = {
        "its windows are no squares": kernel != [size, size],
        "its windows overlap, or leave something out": stride != kernel,
        "it is padded": any(padding),
        "it is dilated": dilation != [1, 1],
        f"its windows have more than {LARGEST} elements": size * size > LARGEST,
        "the size of the map is not known to be a multiple of the windows'": not all(
            statically_known_true(length % size == 0) for length in shape[-2:]
        ),
        "it is neither of one map nor of a batch": len(shape) not in (3, 4),
    }
    return size, next((problem for problem, there in problems.items() if there), "")


def _behind(node: object, target: object) -> Any:
    """The first argument of a call of `target`, `None` for anything else."""
    return arguments(node)[0] if isinstance(node, fx.Node) and node.target is target else None
