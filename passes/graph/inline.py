"""A function's operations in place of a node of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from .notes import shared_note
from .tools import note_of, unguarded


def inline(
    node: fx.Node,
    function: Callable[..., Any],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    composite: bool = True,
) -> fx.Node:
    """Trace `function` on the values of `args` (default: the node's own) and put what it does in front of the node.

    With `composite` composite ops stay whole, as in an exported program; else they become core ATen.

    Returns:
        The node of the function's result, a single tensor.
    """
    given = (node.args if args is None else args, node.kwargs if kwargs is None else kwargs)
    handed: dict[fx.Node, None] = {}
    fx.map_arg(given, lambda argument: handed.setdefault(argument))
    fake_mode = node.meta["val"].fake_mode

    def run(*values: Any) -> Any:
        place = dict(zip(handed, values, strict=True))
        positional, named = fx.map_arg(given, place.__getitem__)
        return function(*positional, **named)

    with torch.no_grad(), unguarded(node), fake_mode:
        traced = make_fx(run, pre_dispatch=composite)(*(argument.meta["val"] for argument in handed))
    copies = dict(zip(traced.graph.find_nodes(op="placeholder"), handed, strict=True))
    for inner in traced.graph.nodes:
        if inner.op == "call_function":
            with node.graph.inserting_before(node):
                copies[inner] = node.graph.node_copy(inner, copies.__getitem__)
            provenance = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
            copies[inner].meta.update(provenance)
            if note_of(node):
                copies[inner].meta["custom"] = shared_note(node)
    (result,) = traced.graph.output_node().all_input_nodes
    return copies[result]


def write_out(node: fx.Node, function: Callable[..., Any], *, composite: bool = True) -> None:
    """`function` of the node's arguments in the node's place: the last of its operations takes over name and notes."""
    result = inline(node, function, composite=composite)
    result.meta = node.meta
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    result._rename(node.name)
