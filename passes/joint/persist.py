"""The forward graph and its assignments, carried by the joint graph through a file.

Only plain data survives: every forward node of the joint graph holds in `meta["custom"]["lrp"]` its name and, where
relevance passes it, its Assignment with operands by name. From these the forward graph is built again after loading.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.forward.select_explained import EXPLAINED, select_explained
from lrp_compiler.passes.forward.target import Target
from lrp_compiler.passes.forward.unlift import unlift
from lrp_compiler.passes.graph.assignment import KEY, Assignment, assignment
from lrp_compiler.passes.graph.tools import attribute, is_tensor, note_of
from lrp_compiler.passes.graph.tools import outputs as graph_outputs
from lrp_compiler.rules import bind, find
from lrp_compiler.rules.product import GATE

aten = torch.ops.aten


def annotate_for_file(forward: fx.GraphModule, joint: fx.GraphModule, explained: fx.Node) -> None:
    """Write the forward graph's assignments onto the joint graph's nodes."""
    by_name = {node.name: node for node in forward.graph.nodes}
    for node in joint.graph.nodes:
        note = (node.meta.get("custom") or {}).get("lrp")
        if not note or note.get("phase") != "forward":
            continue
        original = by_name[note["name"]]
        given = assignment(original)
        if original is explained:
            note["explained"] = True
        if given is not None and given.rule:
            note["rule"] = given.rule
            note["assignment"] = {
                "region": given.target if isinstance(given.target, str) else None,
                "operands": {name: given.arguments[name].name for name in given.active},
                # What the analysis added to the op's own arguments.
                "notes": {key: given.arguments[key] for key in ("slope", GATE) if key in given.arguments},
                "nonnegative": list(given.nonnegative),
                "borders": {name: list(amounts) for name, amounts in given.borders.items()},
                "wanted": list(given.wanted),
                "kind": given.kind,
                "rule": given.rule,
                "options": dict(given.options),
            }


def restore_forward(
    program: Any, inputs: int, outputs: int, explained: int, target: Target | None
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The joint graph of a loaded program, and the forward graph with its assignments.

    Args:
        program: the ExportedProgram that was saved.
        inputs: how many of the placeholders are the model's own.
        outputs: how many of the outputs are the model's own.
        explained: which of these is explained.
        target: where in it; `None`: a function that is not at hand said so.
    """
    joint = unlift(program)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    by_name: dict[str, fx.Node] = {}
    root = torch.nn.Module()
    # What the forward outputs and annotated nodes need is the forward graph; nodes that re-export put in between
    # (symbolic sizes) carry no note and come along as dependencies.
    needed = _needed(joint, outputs)
    placeholders = joint.graph.find_nodes(op="placeholder")[:inputs]
    sizes = _sizes_of(placeholders)
    for node in joint.graph.nodes:
        if node.op == "placeholder" and node not in placeholders:
            continue
        if node.op == "output" or (node not in needed and node not in placeholders):
            continue
        if node.target is aten.sym_size.int and node.meta["val"].node.expr in sizes:
            # Re-export may have read the batch size off the seed's input, which the forward graph does not take.
            source, dim = sizes[node.meta["val"].node.expr]
            copies[node] = graph.call_function(aten.sym_size.int, (copies[source], dim))
            copies[node].meta.update(node.meta)
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
            name = str(note_of(node).get("name", node.name))
            copies[node] = graph.create_node(node.op, node.target, args, kwargs, name=name)
            copies[node].meta.update(node.meta)
        if node.op == "get_attr":
            root.register_buffer(str(node.target), attribute(joint, str(node.target)))
        note = note_of(node)
        by_name[note.get("name", node.name)] = copies[node]
    flat = graph_outputs(joint)[:outputs]
    graph.output(tuple(copies[item] if isinstance(item, fx.Node) else item for item in flat))
    forward = fx.GraphModule(root, graph)
    for node in forward.graph.nodes:
        note = note_of(node)
        if note.get("explained"):
            node.meta[EXPLAINED] = True
        if "assignment" in note:
            node.meta[KEY] = _assignment(node, note["assignment"], by_name)
    if target is not None and not any(node.meta.get(EXPLAINED) for node in forward.graph.nodes):
        # Nothing read the explained value when the program ran (the class was fixed), so its selection was dead code.
        known = set(forward.graph.nodes)
        select_explained(forward, explained, "", target)
        for node in forward.graph.nodes:
            if node not in known and node.op == "call_function" and is_tensor(node):
                _assign_default(node)
    return joint, forward


def _assign_default(node: fx.Node) -> None:
    """What selects the explained value passes relevance by the operators' own rules."""
    given = Assignment.of(node, ("self",))
    if "self" in given.arguments and assignment(given.arguments["self"]) is not None:
        operator = find(given.op(node))
        assert operator is not None
        given.kind, given.rule = operator.kind, operator.rule
        node.meta[KEY] = given


def _sizes_of(placeholders: list[fx.Node]) -> dict[Any, tuple[fx.Node, int]]:
    """Symbolic size → the model input and dim where it can be read."""
    sizes: dict[Any, tuple[fx.Node, int]] = {}
    for placeholder in placeholders:
        for dim, size in enumerate(placeholder.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                sizes.setdefault(size.node.expr, (placeholder, dim))
    return sizes


def _needed(joint: fx.GraphModule, outputs: int) -> set[fx.Node]:
    queue = [item for item in graph_outputs(joint)[:outputs] if isinstance(item, fx.Node)]
    queue += [node for node in joint.graph.nodes if note_of(node).get("phase") == "forward"]
    needed = set(queue)
    while queue:
        fresh = [operand for operand in queue.pop().all_input_nodes if operand not in needed]
        needed.update(fresh)
        queue.extend(fresh)
    return needed


def _assignment(node: fx.Node, note: dict[str, Any], by_name: dict[str, fx.Node]) -> Assignment:
    operands = {name: by_name[value] for name, value in note["operands"].items()}
    if note["region"]:
        target: Any = note["region"]
        arguments: dict[str, Any] = {}
    else:
        target = node.target
        arguments = bind(node.target, node.args, node.kwargs)
    return Assignment(
        target,
        {**arguments, **note["notes"], **operands},
        tuple(operands),
        nonnegative=tuple(note["nonnegative"]),
        borders={name: tuple(amounts) for name, amounts in note.get("borders", {}).items()},
        wanted=tuple(note.get("wanted", ())),
        kind=note["kind"],
        rule=note["rule"],
        options=note["options"],
    )
