"""Modules that a composite explains as a whole, by a function of the user's own.

    x → layers.0.attn: q, k, v, softmax, … → y          x → y, one step: the function, with x as its operand

Active values that enter the module become the operands, numbered in graph order; the one active value that leaves it
carries the rule. What lies between needs no rule of its own.
"""

from __future__ import annotations

from torch import fx

from lrp_compiler.base.errors import CompositeError
from lrp_compiler.passes.graph import Assignment, assign, assignment, inside, module_calls
from lrp_compiler.rules import EXPLAINED_BY, MODULE, Facts
from lrp_compiler.rules.composite import Composite, Entry


def collapse_modules(module: fx.GraphModule, composite: Composite) -> None:
    """Re-assign the value that leaves each module for which the composite has a function.

    Raises:
        CompositeError: such an entry matches no module, or one from which not exactly one active value leaves.
    """
    for entry in composite.entries:
        if isinstance(entry.rule, str):
            continue
        if entry.path is None:
            raise CompositeError(
                f"Composite {composite.name!r}: a function explains a module, so {entry} needs a path."
            )
        regions = _regions(module, entry)
        if not regions and not entry.optional:
            raise CompositeError(
                f"Composite {composite.name!r}: nothing in this model matches {entry}; its modules are "
                f"{', '.join(sorted({path for node in module.graph.nodes for path in module_calls(node)} - {''})[:8])}."
            )
        for path, nodes in regions.items():
            _collapse(path, nodes, entry)


def _regions(module: fx.GraphModule, entry: Entry) -> dict[str, set[fx.Node]]:
    """Module path (each call of its own) → its nodes."""
    assert entry.path is not None
    regions: dict[str, set[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        # The outermost module that matches: the pattern also holds for everything inside it.
        call = next((call for call, path in module_calls(node).items() if inside(path, entry.path)), None)
        if call is not None:
            regions.setdefault(call, set()).add(node)
    return regions


def _collapse(path: str, nodes: set[fx.Node], entry: Entry) -> None:
    active = [node for node in nodes if assignment(node) is not None]
    leaving = [node for node in active if any(user not in nodes for user in node.users)]
    if len(leaving) != 1:
        raise CompositeError(
            f"The module {path} cannot be explained as a whole: {len(leaving)} values that carry relevance leave it, "
            "and a function speaks of one."
        )
    entering: dict[fx.Node, None] = {}
    for node in sorted(active):
        given = assignment(node)
        assert given is not None
        entering.update({given.arguments[name]: None for name in given.active if given.arguments[name] not in nodes})
    operands = {f"{index}": value for index, value in enumerate(entering)}
    assert callable(entry.rule)
    facts = Facts().known(EXPLAINED_BY, entry.rule)
    assign(leaving[0], Assignment(MODULE, operands, tuple(operands), facts=facts))
