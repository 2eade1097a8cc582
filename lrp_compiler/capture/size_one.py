"""Sizes of 1, of which torch.export knows nothing: it takes every open size for 2 or more, and decides by that.

    if x.shape[0] > 1: …        is captured as if it were always so

What was captured is right at 1 all the same, unless the model branches there; whether it does is seen by running both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lrp_compiler.passes.forward import Captured, Example
from lrp_compiler.torch_private import expression, hint, pytree, range_of

from .same_output import difference, outputs_of_graph, room, run_model

CLEARLY = 3.0
"""How many times what rounding may make of a value it must be off: this decides what is refused."""


def other_at_one(captured: Captured, forward: fx.GraphModule) -> set[Any]:
    """The open sizes at which 1 is promised wrongly: the model runs there, and gives something else than the graph.

    Args:
        captured: what was captured, with its example.
        forward: the forward graph.

    Returns:
        Their symbols; none where nothing can be compared, since the example is not known or cannot be cut.
    """
    example = captured.example
    if example is None or isinstance(example.model, ExportedProgram):
        return set()
    placeholders = forward.graph.find_nodes(op="placeholder")[: len(example.tensors)]
    shapes = [node.meta["val"].shape for node in placeholders]
    open_sizes = [size for shape in shapes for size in shape if isinstance(size, torch.SymInt)]
    known = {symbol: found.lower for size in open_sizes for symbol, found in range_of(size).items()}
    hints = {expression(size): hint(size) for size in open_sizes}
    bare = [symbol for symbol, least in known.items() if least <= 2 and hints.get(symbol, 1) > 1]
    return {symbol for symbol in bare if _differs(captured, example, forward, _cut(example, shapes, symbol, hints))}


def _cut(
    example: Example, shapes: Sequence[Sequence[Any]], symbol: Any, hints: Mapping[Any, int]
) -> list[Tensor] | None:
    """The example with the size at 1; None where it has not as many elements as others need then."""
    ones = {other: 1 if other == symbol else size for other, size in hints.items()}
    found = []
    for tensor, shape in zip(example.tensors, shapes, strict=True):
        for dim, size in enumerate(shape):
            if isinstance(size, torch.SymInt):
                wanted = expression(size).subs(ones)
                if not wanted.is_Integer or not 0 < wanted <= tensor.shape[dim]:
                    return None
                tensor = tensor.narrow(dim, 0, int(wanted))
        found.append(tensor)
    return found


def _differs(captured: Captured, example: Example, forward: fx.GraphModule, tensors: list[Tensor] | None) -> bool:
    if tensors is None:
        return False
    leaves, spec = pytree.tree_flatten((tuple(example.args), dict(example.kwargs)))
    rest = iter(tensors)
    args, kwargs = pytree.tree_unflatten([next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
    try:
        returned = run_model(example.model, args, kwargs)
    except Exception:  # it takes no such size, and says so itself
        return False
    if returned is None:
        return False
    try:
        found = outputs_of_graph(forward, tensors)
    except Exception:
        return True
    pairs = zip(found, [returned[position] for position in captured.positions], strict=True)
    return any(
        difference(got, want) > CLEARLY * room(want)
        for got, want in pairs
        if isinstance(got, Tensor) and isinstance(want, Tensor)
    )
