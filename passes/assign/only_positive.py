"""Results at which no relevance arrives where they are ≤ 0.

    convolution (γ) → relu → max_pool → convolution (γ)        the first one: only z > 0 counts, half of the work

A ReLU hands on nothing where it is zero if what it got is proportional to its value. So does every consumer whose rule
multiplies by its own input (ε, z⁺, αβ, γ), and one whose rule hands on what arrives, as a selection's does, if that is
proportional to the result. A flat, w² or box rule, a pass, or a seed breaks that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from torch import fx

from lrp_compiler.passes.graph import assignment
from lrp_compiler.rules import ONLY_POSITIVE, conduct, find


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
        given.know(ONLY_POSITIVE, bool(known) and all(_rectifies(one) and _keeps(one, proportional) for one in known))


def _rectifies(node: fx.Node) -> bool:
    """As what it is to its rule: a quantisation that a clamp ends has another operand than its last step."""
    given = assignment(node)
    return given is not None and given.op(node).rectifies


def _keeps(consumer: fx.Node, proportional: set[fx.Node]) -> bool:
    """Whether what this consumer passes back to its operands is 0 where they are."""
    given = assignment(consumer)
    assert given is not None
    op = given.op(consumer)
    known, operator = conduct(op, given.rule), find(op)
    # Elsewhere something may come of a 0, which takes relevance back to it.
    zero_stays = op.rectifies or (operator is not None and operator.family == "selection")
    return known.multiplies or (known.hands_on and zero_stays and consumer in proportional)
