"""γ rules whose branch for negative outputs no relevance reaches.

    convolution (γ) → relu → max_pool → convolution (γ)        the first one: only z > 0 counts, half of the work

A ReLU hands on nothing where it is zero if what it got is proportional to its value. So does every consumer that
multiplies by its own input (ε, z⁺, αβ, γ), and every selection whose result's relevance is proportional to the result.
A flat, w² or box rule, a pass, or a seed breaks that.
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.tools import arguments

aten = torch.ops.aten

RELUS = {aten.relu.default, aten.relu6.default}
CLAMPS = {aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default}
"""Of these, those from 0 on."""
MULTIPLYING = {"epsilon", "z-plus", "alpha-beta", "gamma", "gamma-one-sided", "uniform"}
FAMILIES = {"convolution", "linear", "addition", "average", "sum", "interpolation", "matmul", "shift"}


def leave_out_negative_branches(module: fx.GraphModule, explained: fx.Node) -> None:
    """Set `positive_only` on the γ rules where it changes nothing.

    Args:
        module: the forward graph, rules assigned.
        explained: the node that the seed is put on.
    """
    proportional: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        if node is not explained and all(_keeps(user, proportional) for user in node.users if assignment(user)):
            proportional.add(node)
    for node in module.graph.nodes:
        given = assignment(node)
        if given is None or given.rule != "gamma" or node is explained:
            continue
        users = [user for user in node.users if assignment(user) is not None]
        if users and all(_is_relu(user) and user in proportional for user in users):
            given.options = {**given.options, "positive_only": True}


def _is_relu(node: fx.Node) -> bool:
    """Whether the node's value is 0 wherever its operand is ≤ 0, and nowhere less."""
    low = arguments(node)[1:2]
    return node.target in RELUS or (node.target in CLAMPS and low == (0,))


def _keeps(user: fx.Node, proportional: set[fx.Node]) -> bool:
    """Whether what this consumer passes back to its operands is 0 where they are."""
    given = assignment(user)
    assert given is not None
    if given.rule in MULTIPLYING and given.kind in FAMILIES:
        return True
    passes = given.rule == "route" or (given.rule == "identity" and _is_relu(user))
    return passes and user in proportional
