"""Modules that a composite explains as a whole, by a function of the user's own.

    x → layers.0.attn: q, k, v, softmax, … → y          x → y, one step: the function, with x as its operand

Active values that enter the module become the operands, numbered in graph order; the one active value that leaves it
carries the rule. What lies between needs no rule of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from lrp_compiler.base.errors import CompositeError
from lrp_compiler.passes.graph import Assignment, assign, assignment, inside, module_calls, module_types
from lrp_compiler.rules import EXPLAINED_BY, MODULE, Facts
from lrp_compiler.rules.composite import ANY, Composite, Entry


def collapse_modules(module: fx.GraphModule, composite: Composite) -> None:
    """Re-assign the value that leaves each module for which the composite has a function.

    Of entries that match the same module the first decides; of modules inside one another the outermost is meant.

    Raises:
        CompositeError: such an entry matches no module, or one from which not exactly one active value leaves; or it
            has a condition that makes no sense of a module.
    """
    chosen: dict[str, Entry] = {}
    for entry in composite.entries:
        if isinstance(entry.rule, str):
            continue
        _check(composite, entry)
        calls = _matching(module, entry)
        if not calls and not entry.optional:
            raise CompositeError(
                f"Composite {composite.name!r}: nothing in this model matches {entry}; {_hint(module, entry)}."
            )
        for call in calls:
            chosen.setdefault(call, entry)
    regions: dict[str, set[fx.Node]] = {}
    for node in _traced(module):
        outermost = next((call for call in module_calls(node) if call in chosen), None)
        if outermost is not None:
            regions.setdefault(outermost, set()).add(node)
    for call, nodes in regions.items():
        _collapse(call, nodes, chosen[call])


def _check(composite: Composite, entry: Entry) -> None:
    """Refuse what a function of a whole module cannot obey."""
    said = {
        "whatever its operations are: its kind is '*'": ANY not in entry.kinds,
        "and `when` asks about a single node: name the module by path= or module=": entry.when is not None,
        "and takes no options: give them to the function itself, as by functools.partial": bool(entry.options),
        "so it needs a path or the name of a module's class: give path= or module=": entry.path is entry.module is None,
    }
    for sentence, wrong in said.items():
        if wrong:
            raise CompositeError(
                f"Composite {composite.name!r}: a function explains a module as a whole, {sentence} ({entry})."
            )


def _matching(module: fx.GraphModule, entry: Entry) -> list[str]:
    """The calls of modules for which every condition of the entry holds, in graph order."""
    found: dict[str, None] = {}
    for node in _traced(module):
        # The outermost module that matches: a path's pattern also holds for everything inside it.
        around = zip(module_calls(node).items(), module_types(node), strict=True)
        found.update(dict.fromkeys([call for (call, path), kind in around if _matches(entry, path, kind)][:1]))
    calls = list(found)
    if entry.position is None:
        return calls
    return calls[:1] if entry.position == "first" else calls[-1:]


def _matches(entry: Entry, path: str, kind: str) -> bool:
    return (entry.path is None or inside(path, entry.path)) and entry.module in (None, kind)


def _hint(module: fx.GraphModule, entry: Entry) -> str:
    nodes = list(_traced(module))
    paths = sorted({path for node in nodes for path in module_calls(node).values()} - {""})
    if entry.module is None or not any(entry.module in module_types(node) for node in nodes):
        known = paths if entry.module is None else sorted({kind for node in nodes for kind in module_types(node)})
        what = "modules" if entry.module is None else "module types"
    else:
        what = f"modules of the type {entry.module!r}"
        pairs = (pair for node in nodes for pair in zip(module_calls(node).values(), module_types(node), strict=True))
        known = sorted({path for path, kind in pairs if kind == entry.module})
    return f"its {what} are {', '.join(known[:8])}{', …' if len(known) > 8 else ''}"


def _traced(module: fx.GraphModule) -> Iterable[fx.Node]:
    return (node for node in module.graph.nodes if node.op == "call_function")


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
