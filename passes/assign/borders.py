"""Zeros that an op of its own puts around a value: no pixels, just as those that a convolution puts there itself."""

from __future__ import annotations

from itertools import zip_longest

from torch import fx

from lrp_compiler.passes.graph import arguments, assignment, everywhere, is_tensor
from lrp_compiler.rules import BORDERS, traits


def mark_borders(module: fx.GraphModule) -> None:
    """Write down `BORDERS`, in the bodies of loops, too."""
    for node in (node for graph in everywhere(module) for node in graph.graph.nodes):
        given = assignment(node)
        if given is not None:
            given.know(BORDERS, {name: border for name in given.active if (border := zero_border(given.operand(name)))})


def zero_padding(value: object) -> tuple[fx.Node, tuple[int, ...]] | None:
    """What a node of the graph puts zeros around, and how many; `None`: it does not, or not a known number of them."""
    if not is_tensor(value) or not traits(value.target).pads or value.kwargs:
        return None
    inner, amounts, *rest = arguments(value)
    zeros = all(fill in ("constant", 0, None) for fill in rest)
    known = all(isinstance(amount, int) and amount >= 0 for amount in amounts)
    return (inner, tuple(amounts)) if zeros and known else None


def zero_border(value: object) -> tuple[int, ...]:
    """How many zeros lie around a value of the graph, as `torch.nn.functional.pad` counts; empty: none.

    Borders around borders are added up. A border of another value, a crop, or one whose width depends on the input is
    none.
    """
    amounts: tuple[int, ...] = ()
    while (padding := zero_padding(value)) is not None:
        value, added = padding
        amounts = tuple(first + second for first, second in zip_longest(amounts, added, fillvalue=0))
    return amounts
