"""The least that an explanation can cost, counted in products from the assigned forward graph.

A map (a convolution, a dense layer, a matrix product) costs one product in the forward. Its relevance takes further
ones of the same size: the transpose of a map, both transposes of a product of two activations, the map through |W| or
W⁺ that the denominator of a signed rule needs. The floor of a graph is the mean of these counts, weighed by the
multiplications of each map: what an explanation costs in forwards if everything else were free. Elementwise work,
softmaxes and norms are left out on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx

from lrp_compiler.passes.graph.assignment import Assignment
from lrp_compiler.passes.graph.assignment import assignment as any_assignment
from lrp_compiler.rules import NONNEGATIVE, ONLY_POSITIVE
from lrp_compiler.rules.signed import DIRECT_FAN_IN

aten = torch.ops.aten


def assignment(node: fx.Node) -> Assignment | None:
    """The node's rule; `None` where no relevance comes, though it could."""
    given = any_assignment(node)
    return given if given is not None and given.rule else None


class Count(NamedTuple):
    """The cost of a graph.

    Args:
        floor: Σ multiplications · products / Σ multiplications.
        multiplications: of the forward, at the example's batch.
        products: how the multiplications are spread: products → share, which sum to 1.
    """

    floor: float
    multiplications: int
    products: dict[float, float]


def count(forward: fx.GraphModule) -> Count:
    """Count the maps of an explainer's forward graph (`Explainer.forward`: its nodes carry their rules)."""
    maps = [(node, MAPS[node.target](node)) for node in forward.graph.nodes if node.target in MAPS]
    explained = [node for node, _ in maps if assignment(node) is not None][-1:]
    spread: Counter[float] = Counter()
    for node, multiplications in maps:
        spread[_last(node) if node in explained else products(node)] += multiplications
    total = sum(spread.values())
    return Count(
        sum(times * size for times, size in spread.items()) / total,
        total,
        {times: size / total for times, size in sorted(spread.items())},
    )


def products(node: fx.Node) -> float:
    """How often the node's map is applied, in one direction or the other, to predict and to explain.

    | | products |
    |---|---:|
    | no relevance comes here, or it is held fixed | 1 |
    | ε, flat, w², pass | 2 |
    | two activations, uniform | 3 |
    | z⁺, γ: inputs ≥ 0 (γ: and outputs followed by a ReLU) | 3 |
    | z⁺, αβ, γ: signed inputs | 4 |
    | z⁺, αβ of a narrow map (≤ `DIRECT_FAN_IN` products an output), signed inputs | 5 |
    | z-box: the map's transpose, and those of W⁺ and W⁻ | 4 |
    """
    given = assignment(node)
    if given is None or given.rule == "zero":
        return 1
    if len(given.active) > 1:
        return 2 if given.rule == "signal" else 3
    return SIGNED[given.rule](node, given) if given.rule in SIGNED else 2


def _last(node: fx.Node) -> float:
    """The map that makes the logits: its transpose is applied to a one-hot vector, which takes a row of W."""
    given = assignment(node)
    assert given is not None
    return products(node) - 1 if given.rule == "epsilon" else products(node)


def _nonnegative(given: Assignment) -> bool:
    return set(given.active) <= set(given.facts[NONNEGATIVE])


def _of_parts(node: fx.Node, given: Assignment) -> float:
    """z⁺ and αβ; α = 2, β = 1 has two denominators and two transposes even where inputs are ≥ 0."""
    if _nonnegative(given):
        return 3 if given.rule == "z-plus" else 4
    return 5 if _fan_in(node) <= DIRECT_FAN_IN else 4


def _of_branches(node: fx.Node, given: Assignment) -> float:
    return 3 if _nonnegative(given) and given.facts[ONLY_POSITIVE] else 4


SIGNED: dict[str, Callable[[fx.Node, Assignment], float]] = {
    "z-plus": _of_parts,
    "alpha-beta": _of_parts,
    "gamma": _of_branches,
    "gamma-one-sided": lambda node, given: 3,
    "z-box": lambda node, given: 4,
}


def _sizes(node: Any) -> list[int]:
    """The shape; where a size is open, the example's."""
    return [size if isinstance(size, int) else int(size.node.hint) for size in node.meta["val"].shape]


def _convolution(node: fx.Node) -> int:
    """Of a transposed one every input element meets every weight of its channel, else every output element does."""
    weight, transposed = _sizes(node.args[1]), bool(node.args[6]) if node.target is aten.convolution.default else False
    return prod(_sizes(node.args[0] if transposed else node)) * prod(weight[1:])


def _matrix(left: int) -> Callable[[fx.Node], int]:
    """Operand `left`'s last dim is summed over."""
    return lambda node: prod(_sizes(node)) * _sizes(node.args[left])[-1]


def _fan_in(node: fx.Node) -> int:
    """How many products make one output."""
    return MAPS[node.target](node) // prod(_sizes(node))


MAPS: dict[Any, Callable[[fx.Node], int]] = {
    **dict.fromkeys(
        (aten.convolution.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _convolution
    ),
    **dict.fromkeys((aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default), _matrix(0)),
    aten.addmm.default: _matrix(1),
}
"""Op → the multiplications of a node."""
