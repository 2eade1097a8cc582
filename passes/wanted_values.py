"""`wrt`: the values whose relevance is asked for, found in the forward graph by name.

"x"                → the input          "fc.weight" → the parameter
"encoder.layer.3"  → the value that leaves this module (each call of it: `encoder.layer.3`, `encoder.layer.3@1`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from lrp_compiler.errors import InputError

from .assignment import assignment
from .graph_tools import module_calls


def parameters_of(module: fx.GraphModule, wrt: Sequence[str] | None) -> list[fx.Node]:
    """The weights among the values that `wrt` names."""
    names = set(wrt or ())
    return [node for node in module.graph.find_nodes(op="get_attr") if node.meta.get("parameter") in names]


def wanted_values(
    module: fx.GraphModule, wrt: Sequence[str] | None, inputs: Mapping[str, str], reached: set[fx.Node]
) -> dict[fx.Node, str]:
    """Node → the name under which its relevance is returned.

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
        return {node: name for name, node in placeholders.items() if node in reached}
    weights = {str(node.meta["parameter"]): node for node in parameters_of(module, wrt)}
    found: dict[fx.Node, str] = {}
    for name in wrt:
        if name in placeholders or name in weights:
            found[placeholders.get(name) or weights[name]] = name
        else:
            found.update(_module_values(module, name, list(placeholders)))
    lost = [name for node, name in found.items() if node not in reached]
    if lost:
        raise InputError(f"wrt names {lost[0]!r}, but the explained output takes no relevance from it.")
    return found


def _module_values(module: fx.GraphModule, path: str, inputs: Sequence[str]) -> dict[fx.Node, str]:
    """The active values that leave the module: one for each call, numbered where there are several."""
    calls: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        for call, owner in module_calls(node).items():
            if owner == path:
                calls.setdefault(call, []).append(node)
    if not calls:
        raise InputError(
            f"wrt names {path!r}, which is no input ({', '.join(inputs)}), no parameter that relevance reaches, and no "
            "module that computes anything (batch norms are folded into the map before them)."
        )
    found = {}
    for call, nodes in calls.items():
        inside = set(nodes)
        leaving = [node for node in nodes if assignment(node) and any(user not in inside for user in node.users)]
        for index, node in enumerate(leaving):
            found[node] = call if len(leaving) == 1 else f"{call}.{index}"
    return found
