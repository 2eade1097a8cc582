"""A function's operations put into a graph: the one way in which passes trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from lrp_compiler.torch_private import OpOverload, fake_mode_of, make_fx, python_dispatcher, take_name, unguarded

from .origin import share_origin
from .tools import add_constant, attribute, provenance
from .writes import without_writes

aten = torch.ops.aten
FRESH = (aten.lift_fresh_copy.default, aten.lift_fresh.default, aten.detach_.default)
"""What torch puts behind a tensor that the function makes (`torch.tensor([1.0])`): here it is a constant already."""


def trace_into(
    place: fx.Node,
    function: Callable[..., object],
    args: Sequence[Argument],
    kwargs: Mapping[str, Argument] | None = None,
    *,
    composite: bool = True,
    table: Mapping[OpOverload, Callable[..., object]] | None = None,
    tidy: Callable[[fx.GraphModule], object] | None = None,
    like: fx.Node | None = None,
) -> fx.Node:
    """Trace `function` on the values of `args` and put what it does in front of `place`.

    Args:
        place: a node of the graph.
        function: of tensors (and whatever `args` holds besides); returns a single tensor.
        args: nodes and plain values, nested as the function takes them.
        kwargs: likewise by name.
        composite: whether composite ops stay whole, as in an exported program; else they become core ATen.
        table: ops to write out, and how.
        tidy: a rewrite of what was traced.
        like: the node for whose sake it is done: the new nodes have its provenance.

    Returns:
        The node of the function's result: one of `args` if the function returns it as it came.
    """
    given = (tuple(args), dict(kwargs or {}))
    handed: dict[fx.Node, None] = {}
    fx.map_arg(given, lambda argument: handed.setdefault(argument))
    values = [argument.meta["val"] for argument in handed]
    like_value = next(value for value in (*values, place.meta.get("val")) if fake_mode_of(value) is not None)

    def run(*values: Any) -> object:
        known = dict(zip(handed, values, strict=True))
        positional, named = fx.map_arg(given, known.__getitem__)
        return function(*positional, **named)

    # Only torch's Python code keeps sizes symbolic in ops that are made of others (`constant_pad_nd`).
    with torch.no_grad(), unguarded(*handed, place), fake_mode_of(like_value), python_dispatcher():
        traced = make_fx(run, decomposition_table=dict(table or {}), pre_dispatch=composite)(*values)
        for inner in traced.graph.nodes:
            if inner.target in FRESH:
                inner.replace_all_uses_with(inner.args[0])
                traced.graph.erase_node(inner)
        without_writes(traced)
        if tidy is not None:
            tidy(traced)
    copies = dict(zip(traced.graph.find_nodes(op="placeholder"), handed, strict=True))
    with place.graph.inserting_before(place):
        for inner in traced.graph.nodes:
            if inner.op == "get_attr":
                owner = place.graph.owning_module
                assert isinstance(owner, fx.GraphModule)
                tensor = attribute(traced, str(inner.target))
                copies[inner] = add_constant(owner, str(inner.target), tensor, like_value)
            elif inner.op == "call_function":
                copies[inner] = place.graph.node_copy(inner, copies.__getitem__)
                if like is not None:
                    copies[inner].meta.update(provenance(like))
                    share_origin(copies[inner], like)
    (result,) = traced.graph.output_node().all_input_nodes
    made: fx.Node = copies[result]
    return made


def inline(
    node: fx.Node,
    function: Callable[..., object],
    args: Sequence[Argument] | None = None,
    kwargs: Mapping[str, Argument] | None = None,
    *,
    composite: bool = True,
) -> fx.Node:
    """Put what `function` does with `args` (default: the node's own arguments) in front of the node, for its sake.

    Returns:
        The node of the function's result, a single tensor.
    """
    if args is None:
        args, kwargs = node.args, node.kwargs
    return trace_into(node, function, args, kwargs, composite=composite, like=node)


def write_out(node: fx.Node, function: Callable[..., object], *, composite: bool = True) -> None:
    """`function` of the node's arguments in the node's place: the last of its operations takes over name and notes."""
    result = inline(node, function, composite=composite)
    result.meta = node.meta
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    take_name(result, node)
