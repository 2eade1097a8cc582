"""Loops of a captured program as they can be written out: a step reads nothing but its operands, each of which is one.

    scan(f, (h, h), (x,), ()); f: h, k, x → h · get_attr(c), …      →      scan(f', (h, clone(h)), (x,), (c,))

torch's operator takes no operand twice, and no step that holds a tensor of its own (`torch.tensor(0.5)`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.passes.graph import add_placeholder, attribute, call, is_tensor
from lrp_compiler.torch_private import fake_mode_of, fake_tensor

aten = torch.ops.aten
LOOP = torch.ops.higher_order.scan


def loops_apart(root: fx.GraphModule, graph: fx.Graph) -> tuple[fx.GraphModule, dict[str, Tensor]]:
    """Make every loop of `graph`, a copy of the program's, read its operands alone, each once; in place.

    Args:
        root: what the copy's names are read from; it stays as it is.
        graph: the copy.

    Returns:
        What they are read from now, and the tensors that steps hold, by the names of the placeholders that
        stand for them, the first ones of the graph.

    Raises:
        CaptureError: a step branches; torch.export has made one operand of two.
    """
    if not graph.find_nodes(op="call_function", target=LOOP):
        return root, {}
    owner = fx.GraphModule(root, graph)
    fake = next(node.meta["val"] for node in graph.nodes if fake_mode_of(node.meta.get("val")) is not None)
    held: dict[str, Tensor] = {}
    first = next(iter(graph.nodes))
    for node in graph.find_nodes(op="call_function", target=LOOP):
        given = []
        for tensor in _read_alone(owner, node):
            with graph.inserting_before(first):
                place = add_placeholder(graph, f"constant_of_a_loop_{len(held)}")
            place.meta["val"] = fake_tensor(tensor, fake)
            held[place.name] = tensor
            given.append(place)
        _give(node, given)
    return owner, held


def _read_alone(owner: fx.GraphModule, node: Any) -> list[Tensor]:
    """Let a loop's body take the tensors that it holds as its last operands; these tensors."""
    name = str(node.args[0].target)
    body: Any = attribute(owner, name)
    _refuse_merged(node, body)
    body = fx.GraphModule(body, _copied(body.graph))
    graph, held = body.graph, list[Tensor]()
    *_, last = graph.find_nodes(op="placeholder")

    def place_of(tensor: Tensor, value: object) -> fx.Node:
        nonlocal last
        with graph.inserting_after(last):
            last = add_placeholder(graph, f"held_{len(held)}")
        last.meta["val"] = value
        held.append(tensor)
        return last

    for inner in graph.find_nodes(op="get_attr"):
        tensor = attribute(body, str(inner.target))
        if isinstance(tensor, Tensor):
            inner.replace_all_uses_with(place_of(tensor, inner.meta.get("val", tensor)))
            graph.erase_node(inner)
        elif any(user.target is not LOOP for user in inner.users):
            raise CaptureError(f"A step of the loop {node.name} branches: choose with torch.where.")
    for inner in graph.find_nodes(op="call_function", target=LOOP):
        given = [place_of(tensor, tensor) for tensor in _read_alone(body, inner)]
        _give(inner, given)
    setattr(owner, name, fx.GraphModule(body, graph))  # without what it has held
    return held


def _copied(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy


def _refuse_merged(node: Any, body: fx.GraphModule) -> None:
    """Raise `CaptureError` for two operands of a step that torch.export takes for one, since they are the same tensor.

    The step reads one of them in both places then, whatever becomes of the other.
    """
    _, states, slices, constants = node.args
    operands = [*states, *slices, *constants]
    places = body.graph.find_nodes(op="placeholder")
    merged = {
        operand for place, operand in zip(places, operands, strict=True) if not place.users and is_tensor(operand)
    }
    twice = next((operand for operand in operands if operand in merged and operands.count(operand) > 1), None)
    if twice is not None:
        raise CaptureError(
            f"The loop {node.name} gets the tensor {twice.name} in two places, of which torch.export makes one: give "
            "it a copy in one of them, x.clone()."
        )


def _give(node: Any, given: Sequence[fx.Node]) -> None:
    """Give a loop more that stays the same, and a copy of every operand that it has already."""
    body, states, slices, constants = node.args
    seen: set[fx.Node] = set()

    def once(operand: Any) -> Any:
        twice = operand in seen
        seen.update([operand] if is_tensor(operand) else [])
        return call(node.graph, aten.clone.default, operand, like=node) if twice else operand

    with node.graph.inserting_before(node):
        parts = [[once(operand) for operand in part] for part in (states, slices, (*constants, *given))]
    node.args = (body, parts[0], parts[1], tuple(parts[2]))
