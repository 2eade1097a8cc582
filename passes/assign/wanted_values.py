"""`wrt` and `observe`: the values whose relevance is asked for, found in the forward graph by name.

"x"                → the input          "fc.weight" → the parameter
"encoder.layer.3"  → the value that leaves this module (each call of it: `encoder.layer.3`, `encoder.layer.3@1`)
"encoder.layer.*"  → the values that leave these modules; "softmax_2" → that node                 (`observe` only)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.graph import assignment, called, loop_of, nearest, value_calls, within


def parameters_of(module: fx.GraphModule, wrt: Sequence[str] | None) -> list[fx.Node]:
    """The weights among the values that `wrt` names."""
    names = set(wrt or ())
    return [node for node in module.graph.find_nodes(op="get_attr") if not names.isdisjoint(_names(node))]


def _names(node: fx.Node) -> Sequence[str]:
    """Of a weight; a tied one has several."""
    names: Sequence[str] = node.meta.get("parameter", ())
    return names


def wanted_values(
    module: fx.GraphModule, wrt: Sequence[str] | None, inputs: Mapping[str, str], reached: set[fx.Node]
) -> dict[str, fx.Node]:
    """Name under which relevance is returned → the node whose relevance that is.

    Args:
        module: the forward graph, with its active nodes annotated.
        wrt: what is asked for; `None`: all inputs that relevance reaches.
        inputs: placeholder name → public name.
        reached: the nodes that relevance reaches.

    Raises:
        InputError: a name that is no input, parameter or module, or a value that relevance does not reach.
    """
    placeholders = {
        inputs[node.meta["input"]]: node
        for node in module.graph.find_nodes(op="placeholder")
        if node.meta["input"] in inputs
    }
    if wrt is None:
        return {name: node for name, node in placeholders.items() if node in reached}
    weights = {name: node for node in parameters_of(module, wrt) for name in _names(node)}
    found: dict[str, fx.Node] = {}
    every = _calls(module)
    for name in wrt:
        if name in placeholders or name in weights:
            found[name] = placeholders.get(name) or weights[name]
        else:
            calls = {call: nodes for (call, path), nodes in every.items() if path == name}
            if not calls:
                raise InputError(
                    f"wrt names {name!r}, which is no input ({', '.join(placeholders)}), no parameter that relevance "
                    f"reaches, and no module that computes anything{_near(name, module)}."
                )
            found.update(_leaving(calls))
    lost = [name for name, node in found.items() if node not in reached]
    if lost:
        raise InputError(f"wrt names {lost[0]!r}, but the explained output takes no relevance from it.")
    return found


def _near(name: str, module: fx.GraphModule) -> str:
    """; near it: …, if there are any."""
    weights = [one for node in module.graph.find_nodes(op="get_attr") for one in _names(node)]
    near = nearest(name, [*weights, *dict.fromkeys(path for _, path in _calls(module))])
    return f"; near it: {near}" if near else ""


def with_observed(
    wanted: Mapping[str, fx.Node], module: fx.GraphModule, observe: Sequence[str], reached: set[fx.Node]
) -> dict[str, fx.Node]:
    """What is wanted, and the values that leave the modules that a pattern names, or else the nodes that it names.

    Args:
        wanted: name → node, so far.
        module: the forward graph, with its active nodes annotated.
        observe: patterns of module paths, or of names of nodes (`softmax*`); what relevance does not reach is left out.
        reached: the nodes that relevance reaches.

    Raises:
        InputError: a pattern that names nothing, or only values that relevance does not reach; a module that has the
            name of an input.
    """
    found = dict(wanted)
    for pattern in observe:
        for name, node in named_values(module, pattern, reached, "observe").items():
            if found.setdefault(name, node) is not node:
                raise InputError(f"observe={pattern!r} names {name!r}, which wrt names, too, or which is an input.")
    return found


def named_values(module: fx.GraphModule, pattern: str, reached: Collection[fx.Node], what: str) -> dict[str, fx.Node]:
    """The values that leave the modules that a pattern names, or else the nodes that it names: name → node.

    Args:
        module: the forward graph, with its active nodes annotated.
        pattern: of module paths, or of names of nodes (`softmax*`); what relevance does not reach is left out.
        reached: the nodes that relevance reaches.
        what: the option that holds the pattern, for messages.

    Raises:
        InputError: the pattern names nothing, or only values that relevance does not reach.
    """
    every = _calls(module)
    nodes = {node.name: node for node in module.graph.nodes if node.op == "call_function"}
    calls = {call: inside for (call, path), inside in every.items() if called(path, pattern) or called(call, pattern)}
    named = _leaving(calls) if calls else {name: node for name, node in nodes.items() if called(name, pattern)}
    if not calls and not named:
        near = nearest(pattern, [*(call for call, _ in every), *nodes])
        hidden = (
            ""
            if not _only_weights(module, pattern)
            else (
                " It has weights, but no operation goes by its path (inside loops, and inside the branches of "
                "torch.cond, none does): give the names of nodes."
            )
        )
        raise InputError(f"{what}={pattern!r} names no module and no node of this model; near it: {near}.{hidden}")
    live = {name: node for name, node in named.items() if node in reached and assignment(node) is not None}
    inside = {name: node for name, node in named.items() if name not in live and _is_inside(node, reached)}
    if inside and not live and what not in INSIDE_LOOPS:
        raise InputError(
            f"{what}={pattern!r} names {next(iter(inside))!r}, a value of a loop's steps, which can be observed alone: "
            "name what goes into the loop, or what comes out."
        )
    found = {name: node for name, node in named.items() if name in live or (name in inside and what in INSIDE_LOOPS)}
    if not found:
        raise InputError(f"{what}={pattern!r} names values from which the explained output takes no relevance.")
    return found


INSIDE_LOOPS = ("observe",)
"""Options that may name a value of a loop's steps, as the loop hands it out: those of all steps, time first."""


def _is_inside(node: fx.Node, reached: Collection[fx.Node]) -> bool:
    """Whether a node hands out a value of a loop's steps that takes relevance."""
    inner = within(node)
    if inner is node or assignment(inner) is None:
        return False
    loop = loop_of(node)
    return loop is not None and any(user in reached for user in loop.users)


def _calls(module: fx.GraphModule) -> dict[tuple[str, str], list[fx.Node]]:
    """The nodes in each call of a module, by (call, path)."""
    calls: dict[tuple[str, str], list[fx.Node]] = {}
    for node in module.graph.nodes:
        for call, path in value_calls(node).items():
            if path:
                calls.setdefault((call, path), []).append(node)
    return calls


def _leaving(calls: Mapping[str, Sequence[fx.Node]]) -> dict[str, fx.Node]:
    """The active values that leave each call, numbered where there are several."""
    found = {}
    for call, nodes in calls.items():
        inside = set(nodes)
        leaving = [node for node in nodes if assignment(node) and any(user not in inside for user in node.users)]
        for index, node in enumerate(leaving):
            found[call if len(leaving) == 1 else f"{call}.{index}"] = node
    return found


def _only_weights(module: fx.GraphModule, pattern: str) -> bool:
    """Whether the pattern names a module by whose path weights are known, or one around it."""
    weights = module.graph.find_nodes(op="get_attr")
    names = [name.split(".") for node in weights for name in node.meta.get("parameter", ())]
    return any(called(".".join(name[:depth]), pattern) for name in names for depth in range(1, len(name)))
