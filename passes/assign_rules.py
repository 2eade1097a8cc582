"""The decision: which rule, with which options, at which node.

The composite is a table; this pass looks every active node up in it and writes the answer down in the node's
Assignment. Emission obeys. A node whose op no rule speaks for is not skipped: all of them are reported at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from inspect import signature
from operator import getitem

from torch import fx

from lrp_compiler.errors import CompositeError, UnsupportedNode, UnsupportedOpError
from lrp_compiler.rules import RULES, find, rules_of
from lrp_compiler.rules.composite import Composite

from .assignment import assignment
from .graph_tools import module_path, source_line


def assign_rules(module: fx.GraphModule, composite: Composite, needed: Collection[fx.Node]) -> None:
    """Complete the Assignment of every active node that relevance can reach (`needed`).

    Raises:
        UnsupportedOpError: nodes whose op has no rule; it lists every one.
        CompositeError: the composite gives an operation a rule that its family does not have.
    """
    missing = uncovered(module, needed)
    if missing:
        raise UnsupportedOpError(missing)
    for node in module.graph.nodes:
        given = assignment(node)
        if given is None or node not in needed:
            continue
        operator = find(given.op(node))
        assert operator is not None
        entry = composite.entry(operator.kind)
        given.kind = operator.kind
        given.rule = entry.rule if entry else operator.rule
        given.options = dict(entry.options) if entry else {}
        if given.rule not in rules_of(operator.family):
            raise CompositeError(
                f"Composite {composite.name!r} gives {operator.kind!r} the rule {given.rule!r}: "
                f"it takes one of {', '.join(rules_of(operator.family))}."
            )
        _check_options(composite, operator.family, given.rule, given.options)


def _check_options(composite: Composite, family: str, rule: str, options: Mapping[str, object]) -> None:
    parameters = list(signature(RULES[family, rule]).parameters)[RULE_ARGUMENTS:]
    unknown = [name for name in options if name not in parameters]
    if unknown:
        takes = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
        raise CompositeError(f"Composite {composite.name!r} gives the rule {rule!r} an option {unknown[0]!r}: {takes}.")


RULE_ARGUMENTS = 3
"""What every rule of a family takes before its options: op, description, relevance."""


def uncovered(module: fx.GraphModule, needed: Collection[fx.Node]) -> list[UnsupportedNode]:
    """The active nodes among `needed` whose op no rule speaks for."""
    missing = []
    for node in module.graph.nodes:
        given = assignment(node)
        # A result picked out of an op with several is reported with that op.
        if given is None or node not in needed or node.target is getitem:
            continue
        if find(given.op(node)) is None:
            missing.append(UnsupportedNode(str(node.target), node.name, module_path(node), source_line(node)))
    return missing


def reachable(module: fx.GraphModule, explained: fx.Node) -> set[fx.Node]:
    """The active nodes that relevance put on `explained` can reach."""
    reached = {explained}
    for node in reversed(module.graph.nodes):
        given = assignment(node)
        if node in reached and given is not None:
            reached.update(given.arguments[name] for name in given.active)
    return reached
