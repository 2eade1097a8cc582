"""The decision: which rule, with which options, at which node.

    Entry("convolution", "z-box", …, position="first")        conv1 → z-box
    Entry("convolution", "gamma", …)                   →      conv2, conv3 → gamma
                                                              relu, fc: the operator's own rule

The composite is a table; this pass compares every active node with it and writes the answer down in the node's
Assignment. Emission obeys. A node whose op no rule speaks for is not skipped: all of them are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from inspect import Parameter
from operator import getitem
from typing import Any

from torch import fx

from lrp_compiler.base.errors import CompositeError, UnsupportedNode, UnsupportedOpError, did_you_mean
from lrp_compiler.base.validate import is_number, shortened
from lrp_compiler.passes.graph import Assignment, Scan, assignment, inside, module_path, module_types, source_line
from lrp_compiler.rules import (
    CONDUCT,
    DIFFERENCE,
    NOTHING,
    OPERATORS,
    RULES,
    Bound,
    Operator,
    find,
    options_of,
    rules_of,
    traits,
)
from lrp_compiler.rules.composite import ANY, FIXED, Composite, Entry

Site = tuple[fx.Node, Assignment, Operator]


def assign_rules(module: fx.GraphModule, composite: Composite, needed: Set[fx.Node]) -> None:
    """Complete the Assignment of every active node that relevance can reach (`needed`).

    Raises:
        UnsupportedOpError: nodes whose op has no rule; it lists every one.
        CompositeError: the composite gives an operation a rule or an option that does not fit, or has an entry that
            matches nothing.
    """
    missing = _without_rule(module, needed)
    if missing:
        algebra = any(traits(node.target).algebra for node in missing)
        raise UnsupportedOpError(map(_unsupported, missing), ALGEBRA if algebra else "")
    sites = list(_sites(module, needed))
    chosen = _choose(composite, sites)
    for node, given, operator in sites:
        entry = chosen.get(node)
        given.kind = operator.kind
        given.rule, given.options = (operator.rule, {}) if entry is None else (str(entry.rule), dict(entry.options))
        fits = CONDUCT.get((operator.family, given.rule), NOTHING).of_differences
        if composite.differences and not fits and (operator.family, DIFFERENCE) in RULES:
            raise CompositeError(
                f"Composite {composite.name!r} is of differences and gives {operator.kind!r} the rule {given.rule!r}, "
                f"which is of values: end it with the entries of lrp.composites.reference()."
            )
        if entry is None:
            continue
        if given.rule not in rules_of(operator.family):
            raise CompositeError(
                f"Composite {composite.name!r} gives {operator.kind!r} the rule {given.rule!r}: "
                f"it takes one of {', '.join(rules_of(operator.family))}."
            )
        _check_options(composite, operator.family, given)


ALGEBRA = (
    "An inverse, a determinant or a factorisation of a computed matrix has no shares by element: let "
    "lrp.Entry('*', function, path=…) explain the module around it as a whole, or calculate it outside."
)


def fixed_values(module: fx.GraphModule, composite: Composite) -> set[fx.Node]:
    """The active nodes that the composite holds fixed, as if they were constants."""
    entries = [entry for entry in composite.entries if entry.rule == FIXED]
    sites = list(_sites(module, set(module.graph.nodes))) if entries else []
    return {node for entry in entries for node in _matching(composite, entry, sites)}


def _sites(module: fx.GraphModule, needed: Set[fx.Node]) -> Iterator[Site]:
    for node in module.graph.nodes:
        given = assignment(node)
        if isinstance(node.target, Scan) and not needed.isdisjoint(node.users):
            yield from _sites(node.target.body, set(node.target.body.graph.nodes))
        if given is not None and node in needed:
            operator = find(given.op(node))
            if operator is not None:
                yield node, given, operator


def _choose(composite: Composite, sites: list[Site]) -> dict[fx.Node, Entry]:
    chosen: dict[fx.Node, Entry] = {}
    for entry in composite.entries:
        # Whole modules and fixed values have been seen to by `collapse_modules` and `fixed_values`.
        if isinstance(entry.rule, str) and entry.rule != FIXED:
            for node in _matching(composite, entry, sites):
                chosen.setdefault(node, entry)
    return chosen


def _matching(composite: Composite, entry: Entry, sites: list[Site]) -> list[fx.Node]:
    matching = _in_position(entry, (node for node, _, operator in sites if _matches(entry, node, operator)))
    if not matching and not entry.optional:
        raise CompositeError(
            f"Composite {composite.name!r}: nothing in this model matches {entry}; "
            f"{_hint(entry, sites)}, or give it optional=True."
        )
    return matching


def _in_position(entry: Entry, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    matching = list(nodes)
    if entry.position is None:
        return matching
    return matching[:1] if entry.position == "first" else matching[-1:]


def _matches(entry: Entry, node: fx.Node, operator: Operator) -> bool:
    if ANY in entry.kinds:
        if entry.rule != FIXED and (operator.family, entry.rule) not in RULES:
            return False
    elif operator.kind not in entry.kinds:
        return False
    if entry.path is not None and not inside(module_path(node), entry.path):
        return False
    if entry.module is not None and entry.module not in module_types(node):
        return False
    return entry.when is None or bool(entry.when(node))


def _hint(entry: Entry, sites: list[Site]) -> str:
    kinds = sorted({operator.kind for *_, operator in sites})
    known = {entry.kind for entries in OPERATORS.values() for entry in entries}
    strange = [kind for kind in entry.kinds if kind != ANY and kind not in known]
    if strange or not set(entry.kinds) & {ANY, *kinds}:
        return f"its kinds are {', '.join(kinds)}"
    if entry.path is not None:
        paths = sorted({module_path(node) for node, *_ in sites} - {""})
        return f"its module paths are {', '.join(paths[:5])}{', …' if len(paths) > 5 else ''}"
    if entry.module is not None:
        types = sorted({name for node, *_ in sites for name in module_types(node)})
        return f"its module types are {', '.join(types[:8])}{', …' if len(types) > 8 else ''}"
    return "loosen its conditions"


def _check_options(composite: Composite, family: str, given: Assignment) -> None:
    parameters = options_of(family, given.rule)
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters]
    unknown = [name for name in given.options if name not in names]
    if unknown:
        takes = f"it takes {', '.join(names)}" if names else "it takes none"
        raise CompositeError(
            f"Composite {composite.name!r} gives the rule {given.rule!r} an option {unknown[0]!r}"
            f"{did_you_mean(unknown[0], names)}: {takes}."
        )
    for parameter in parameters:
        value: Any = given.options.get(parameter.name, parameter.default)
        fits, wanted = OPTIONS.get(parameter.annotation, (lambda value: True, ""))
        stabilises = parameter.name == "epsilon" and is_number(value) and value < 0
        if parameter.name in given.options and (stabilises or not fits(value)):
            raise CompositeError(
                f"Composite {composite.name!r} gives the rule {given.rule!r} {parameter.name}={shortened(value)}: that "
                f"is {'a number from 0 up' if parameter.name == 'epsilon' else wanted}."
            )


def _is_bound(value: object) -> bool:
    return is_number(value) or (isinstance(value, list | tuple) and all(map(is_number, value)))


OPTIONS: dict[object, tuple[Callable[[object], bool], str]] = {
    float: (is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a word"),
    Bound: (_is_bound, "a number, or one for each channel"),
}
"""Type of a rule's option → whether a value is of that kind, and what it is in words."""


def uncovered(module: fx.GraphModule, needed: Set[fx.Node]) -> list[UnsupportedNode]:
    """The active nodes among `needed` whose op no rule speaks for."""
    return [_unsupported(node) for node in _without_rule(module, needed)]


def _unsupported(node: fx.Node) -> UnsupportedNode:
    return UnsupportedNode(str(node.target), node.name, module_path(node), source_line(node))


def _without_rule(module: fx.GraphModule, needed: Set[fx.Node]) -> list[fx.Node]:
    missing = []
    for node in module.graph.nodes:
        given = assignment(node)
        if isinstance(node.target, Scan) and not needed.isdisjoint(node.users):
            missing += _without_rule(node.target.body, set(node.target.body.graph.nodes))
        # A result picked out of an op with several is reported with that op.
        if given is None or node not in needed or node.target is getitem:
            continue
        if find(given.op(node)) is None:
            missing.append(node)
    return missing


def reachable(module: fx.GraphModule, explained: fx.Node) -> set[fx.Node]:
    """The active nodes that relevance put on `explained` can reach."""
    reached = {explained}
    for node in reversed(module.graph.nodes):
        given = assignment(node)
        if node in reached and given is not None:
            reached.update(given.arguments[name] for name in (*given.active, *given.wanted))
    return reached
