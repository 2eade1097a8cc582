"""Branches over a tensor: both are worked out, and what the condition takes is chosen.

    cond(p, f, g, (x,))      →      where(p, f(where(p, x, 1)), g(where(p, 1, x)))

Relevance goes the way that was taken, by the ordinary rule of `where`. The branch that is not taken gets ones (zeros
where they are whole numbers): it neither fails nor makes NaN, of which relevance 0 would be NaN, too. Both cost time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.passes.graph import add_placeholder, call, is_tensor, same_shape
from lrp_compiler.torch_private import fake_mode_of, fake_tensor

aten = torch.ops.aten
COND = torch.ops.higher_order.cond


def write_out_branches(
    program: ExportedProgram, graph: fx.Graph, copies: dict[fx.Node, fx.Node]
) -> tuple[fx.GraphModule, dict[str, torch.Tensor]]:
    """Write out every branch of `graph`, a copy of the program's, in place; those inside branches as well.

    Args:
        program: the program.
        graph: the copy.
        copies: node of the program → node of the copy.

    Returns:
        What the copy's names are read from, steps of loops inside branches among them; and the constants that branches
        make, by the names of the placeholders that stand for them, the first ones of the graph.

    Raises:
        CaptureError: the branches return tensors of different shapes; the condition is about sizes that are open.
    """
    inputs = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT}
    stored = {copy for node, copy in copies.items() if node.op == "placeholder" and node.name not in inputs}
    constants: dict[str, torch.Tensor | fx.GraphModule] = {}
    _write_out_all(program.graph_module, graph, stored, constants)
    fake = next((node.meta["val"] for node in graph.nodes if fake_mode_of(node.meta.get("val")) is not None), None)
    first = next(iter(graph.nodes))
    placed = {}
    owner = program.graph_module
    for name, value in constants.items():
        if isinstance(value, fx.GraphModule):
            owner = fx.GraphModule(owner, program.graph)
            owner.add_module(name, value)
            continue
        with graph.inserting_before(first):
            place = add_placeholder(graph, f"{name}_")
        place.meta["val"] = fake_tensor(value, fake)
        placed[place.name] = value
        for node in graph.find_nodes(op="get_attr"):
            if node.target == name:
                node.replace_all_uses_with(place)
                graph.erase_node(node)
    return owner, placed


def _write_out_all(
    owner: fx.GraphModule, graph: fx.Graph, stored: set[fx.Node], constants: dict[str, torch.Tensor | fx.GraphModule]
) -> None:
    for node in graph.find_nodes(op="call_function", target=COND):
        condition, *branches, operands = node.args
        modules = [getattr(owner, branch.target) for branch in branches]
        inlined = partial(_inlined, graph, stored=stored, constants=constants)
        with graph.inserting_before(node):
            if isinstance(condition, bool):
                results = inlined(modules[0 if condition else 1], list(operands))
            else:
                results = _chosen(node, condition, modules, list(operands), stored, inlined)
        for user in list(node.users):
            result, name = results[user.args[1]], user.name
            user.replace_all_uses_with(result)
            graph.erase_node(user)
            if result.op == "call_function":
                result.name = name  # an output of the program is known by it
        graph.erase_node(node)
        for branch in branches:
            if not branch.users:
                graph.erase_node(branch)


def _chosen(
    node: fx.Node,
    condition: object,
    modules: list[fx.GraphModule],
    operands: list[Any],
    stored: set[fx.Node],
    inlined: Callable[[fx.GraphModule, list[Any]], list[Any]],
) -> list[fx.Node]:
    """What either branch returns, by the condition."""
    graph = node.graph
    if not is_tensor(condition):
        raise CaptureError(
            f"The model branches over a size that is open (torch.cond at {node.name}): leave this size out of "
            "dynamic_shapes, or choose with torch.where."
        )
    taken = (
        condition if condition.meta["val"].dim() == 0 else call(graph, aten.reshape.default, condition, [], like=node)
    )
    other = call(graph, aten.logical_not.default, taken, like=node)
    both = [
        inlined(module, [_entering(graph, when, operand, stored, node) for operand in operands])
        for module, when in zip(modules, (taken, other), strict=True)
    ]
    for first, second in zip(*both, strict=True):
        if not (is_tensor(first) and is_tensor(second) and same_shape(first, second)):
            raise CaptureError(
                f"The branches of torch.cond at {node.name} return tensors of different shapes, or no tensors: let "
                "both return the same."
            )
    return [call(graph, aten.where.self, taken, *pair, like=node) for pair in zip(*both, strict=True)]


def _entering(graph: fx.Graph, taken: fx.Node, operand: object, stored: set[fx.Node], like: fx.Node) -> Any:
    """What a branch reads of a value: the value where it is taken, else what does no harm."""
    if not is_tensor(operand) or operand in stored or operand.meta["val"].dtype is torch.bool:
        return operand
    value = operand.meta["val"]
    harmless = 1 if value.is_floating_point() or value.is_complex() else 0
    fill = call(graph, aten.full.default, [], harmless, dtype=value.dtype, device=value.device, like=like)
    return call(graph, aten.where.self, taken, operand, fill, like=like)


def _inlined(
    graph: fx.Graph,
    module: fx.GraphModule,
    operands: list[Any],
    stored: set[fx.Node],
    constants: dict[str, torch.Tensor | fx.GraphModule],
) -> list[Any]:
    """The branch's operations, at the graph's insertion point: what it returns."""
    inside, known = fx.Graph(), dict[fx.Node, fx.Node]()
    inside.output(inside.graph_copy(module.graph, known))
    places = [known[node] for node in module.graph.find_nodes(op="placeholder")]
    same = {place for place, operand in zip(places, operands, strict=True) if operand in stored}
    _write_out_all(module, inside, same, constants)
    copies: dict[fx.Node, Any] = dict(zip(places, operands, strict=True))
    for node in inside.nodes:
        if node.op == "get_attr" and node.target not in constants:
            name = f"constant_of_a_branch_{len(constants)}"
            constants[name] = getattr(module, node.target)
            copies[node] = graph.get_attr(name)
            copies[node].meta.update(node.meta)
        elif node.op in ("get_attr", "call_function"):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return [copies[item] if isinstance(item, fx.Node) else item for item in inside.output_node().args[0]]  # type: ignore[union-attr]
