"""What leaves the joint graph made smaller, in the graph: `R_x [batch, 3, 224, 224]` → `[batch, 14, 14]` in float16.

A reduction is a name in `REDUCTIONS` and a function of the tensors that stand for one relevance, by the part of it that
each is ("" the whole). A list of names is one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx
from torch.fx.node import Argument
from torch.nn import functional

from lrp_compiler.base.reductions import HALF, LEAST, parsed
from lrp_compiler.passes.graph import trace_into

Parts = dict[str, fx.Node]
Trace = Callable[..., fx.Node]


def reduce(node: fx.Node, place: fx.Node, names: Sequence[str], lead: int) -> tuple[Parts, set[int]]:
    """Put what reduces one relevance in front of a place of its graph.

    Args:
        node: the relevance, `[…, batch, *dims]`.
        place: in front of which.
        names: of the reductions, in order; those that need more dims than it has leave it as it is.
        lead: how many dims stand in front of `dims`.

    Returns:
        What stands for it, by the part of it that each is; and which of the names it took.
    """

    def trace(function: Callable[..., Tensor], *args: Argument) -> fx.Node:
        return trace_into(place, function, args, like=node)

    parts, taken = {"": node}, set()
    for at, name in enumerate(names):
        word, number = parsed(name)
        if all(part.meta["val"].dim() - lead >= LEAST[word] for part in parts.values()):
            taken.add(at)
            parts = REDUCTIONS[word](parts, trace, lead, number) if word in REDUCTIONS else parts
    return parts, taken


def row_sums(node: fx.Node, place: fx.Node, lead: int) -> fx.Node:
    """Σ of a relevance for every row, `[…, batch]`, in front of a place."""
    return trace_into(place, _rows, [node, lead], like=node)


def _rows(R: Tensor, lead: int) -> Tensor:
    return wide(R).sum(tuple(range(lead, R.dim()))) if R.dim() > lead else wide(R)


def wide(R: Tensor) -> Tensor:
    """Half-precision relevance is summed in float32."""
    return R.float() if R.dtype in (torch.float16, torch.bfloat16) else R


def _inside(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _channels(parts: Parts, trace: Trace, lead: int, number: int) -> Parts:
    return {name: trace(lambda R: wide(R).sum(lead), node) for name, node in parts.items()}


def _features(parts: Parts, trace: Trace, lead: int, number: int) -> Parts:
    return {name: trace(lambda R: wide(R).sum(-1), node) for name, node in parts.items()}


def _heads(parts: Parts, trace: Trace, lead: int, number: int) -> Parts:
    def each(R: Tensor) -> Tensor:
        return wide(R).sum(tuple(range(lead + 1, R.dim())))

    return {name: trace(each, node) for name, node in parts.items()}


def _patches(parts: Parts, trace: Trace, lead: int, number: int) -> Parts:
    def sums(R: Tensor) -> Tensor:
        R = wide(R)
        for dim in range(max(lead, R.dim() - 2), R.dim()):
            size = R.shape[dim]
            count = (size + number - 1) // number
            # Zeros at the end, as many as may be needed; what is more than whole patches is cut off again.
            R = functional.pad(R, [0, 0] * (R.dim() - 1 - dim) + [0, number - 1]).narrow(dim, 0, count * number)
            R = R.reshape(*R.shape[:dim], count, number, *R.shape[dim + 1 :]).sum(dim + 1)
        return R

    return {name: trace(sums, node) for name, node in parts.items()}


def _signs(parts: Parts, trace: Trace, lead: int, number: int) -> Parts:
    functions = {"positive": lambda R: R.clamp(min=0), "negative": lambda R: R.clamp(max=0)}
    return {
        _inside(name, sign): trace(function, node)
        for name, node in parts.items()
        for sign, function in functions.items()
    }


def _top(parts: Parts, trace: Trace, lead: int, number: int) -> Parts:
    def places(R: Tensor) -> Tensor:
        # Behind all elements stand as many that are smaller than any: of fewer elements than asked for these are left.
        size = R.flatten(lead).abs()
        found = functional.pad(size, [0, number], value=-1.0).topk(number, dim=-1)
        return found.indices.masked_fill(found.values < 0, -1)

    def values(R: Tensor, places: Tensor) -> Tensor:
        there = R.flatten(lead).gather(-1, places.clamp(min=0))
        return there.masked_fill(places < 0, 0.0)

    made: Parts = {}
    for name, node in parts.items():
        made[_inside(name, "positions")] = trace(places, node)
        made[_inside(name, "values")] = trace(values, node, made[_inside(name, "positions")])
    return made


def _half(parts: Parts, trace: Trace, lead: int, number: int) -> Parts:
    floats = {name: node.meta["val"].is_floating_point() for name, node in parts.items()}
    return {name: trace(lambda R: R.half(), node) if floats[name] else node for name, node in parts.items()}


REDUCTIONS: Mapping[str, Callable[[Parts, Trace, int, int], Parts]] = {
    "channels": _channels,
    "features": _features,
    "heads": _heads,
    "patch": _patches,
    "signs": _signs,
    "top": _top,
    HALF: _half,
}
"""Name → what it does; the names, and what each needs, stand in `base/reductions.py`."""
