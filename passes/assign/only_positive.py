"""Results at which no relevance arrives where they are ≤ 0.

    convolution (γ) → relu → max_pool → convolution (γ)        the first one: only z > 0 counts, half of the work

A ReLU hands on nothing where it is zero if what it got is proportional to its value. So does every consumer that
multiplies by its own input (ε, z⁺, αβ, γ), and every selection whose result's relevance is proportional to the result.
A flat, w² or box rule, a pass, or a seed breaks that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from torch import fx

from lrp_compiler.passes.graph import assignment
from lrp_compiler.rules import ONLY_POSITIVE, bind, conduct, traits


def mark_only_positive(module: fx.GraphModule, seeded: Collection[fx.Node]) -> None:
    """Write down `ONLY_POSITIVE`.

    Args:
        module: the forward graph, rules assigned.
        seeded: the nodes that relevance is put on.
    """
    proportional: set[fx.Node] = set()
    consumers: defaultdict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in reversed(module.graph.nodes):
        given = assignment(node)
        if node not in seeded and all(_keeps(consumer, proportional) for consumer in consumers[node]):
            proportional.add(node)
        if given is not None and given.rule:
            for name in given.active:
                consumers[given.operand(name)].append(node)
    for node in module.graph.nodes:
        given = assignment(node)
        if given is None or not given.rule or node in seeded:
            continue
        known = consumers[node]
        given.know(ONLY_POSITIVE, bool(known) and all(_rectifies(one) and one in proportional for one in known))


def _rectifies(node: fx.Node) -> bool:
    """Whether the node's value is 0 wherever its operand is ≤ 0, and nowhere less.

    What is the end of something else, a quantisation that a clamp ends, say, has another operand than its last step.
    """
    given = assignment(node)
    if given is None or given.target is not node.target:
        return False
    asked = traits(node.target).rectifies
    return asked is not None and asked(bind(node.target, node.args, node.kwargs))


def _keeps(consumer: fx.Node, proportional: set[fx.Node]) -> bool:
    """Whether what this consumer passes back to its operands is 0 where they are."""
    given = assignment(consumer)
    assert given is not None
    if conduct(given.op(consumer), given.rule).multiplies:
        return True
    passes = given.rule == "route" or (given.rule == "identity" and _rectifies(consumer))
    return passes and consumer in proportional
