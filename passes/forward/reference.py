"""The forward graph run at a reference as well: `x → z` becomes `x, reference.x → z`, with z₀ beside z.

    x ─ linear ─ relu ─ linear_1                         x           ─ linear           ─ relu           ─ linear_1
                                              →          reference.x ─ reference_linear ─ reference_relu ─ …

What does not depend on an input that has a reference is calculated once. Every value knows its twin, which rules of
differences (`rules/differences.py`) read; relevance does not go there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, fx

from lrp_compiler.base.boundary import describe_node
from lrp_compiler.base.errors import CompositeError, InputError
from lrp_compiler.base.references import PREFIX
from lrp_compiler.passes.graph import TWIN, add_placeholder, is_tensor
from lrp_compiler.rules import bind, traits
from lrp_compiler.torch_private import counts_in, fake_mode_of, pytree

from .captured import Captured
from .select_explained import EXPLAINED


def beside_reference(forward: fx.GraphModule, captured: Captured, inputs: Collection[str]) -> Captured:
    """Calculate everything at a reference, too; the forward graph is rewritten in place.

    Args:
        forward: the forward graph, with the explained value in it.
        captured: what it was made of.
        inputs: the placeholders (`meta["input"]`) that have a reference.

    Returns:
        The model with the references among its inputs, behind its own.

    Raises:
        InputError: the model has an input of such a name itself.
        CompositeError: how many elements a value has depends on an input that has a reference.
    """
    graph = forward.graph
    own = [node for node in graph.find_nodes(op="placeholder") if node.meta["input"] in captured.inputs]
    known, last, twins = dict(captured.inputs), own[-1], dict[fx.Node, fx.Node]()
    for node in own:
        key = str(node.meta["input"])
        if key not in inputs:
            continue
        name = PREFIX + captured.inputs[key]
        if name in captured.inputs.values():
            raise InputError(f"The model has an input {name!r} itself, as a reference is called: rename it.")
        with graph.inserting_after(last):
            last = twins[node] = add_placeholder(graph, PREFIX + key)
        last.meta["val"] = _another(node.meta["val"])
        last.meta["input"] = PREFIX + key
        known[PREFIX + key] = name
    counted: set[object] = set()
    for node in list(graph.nodes):
        counts = _counts(node) - counted
        counted |= counts
        if counts and any(at in twins for at in _counting(node)):
            is_number = not is_tensor(node) and not isinstance(node.meta["val"], list | tuple)
            what = "the number that is read" if is_number else "how many places there are"
            instead = "calculate with the tensor" if is_number else "multiply by a mask, or take torch.where"
            raise CompositeError(
                f"Differences from a reference are taken place by place, but {what} at {describe_node(node)} depends "
                f"on the values of the input, and is another at the reference: {instead} instead, name what decides "
                "in fixed=, or choose another composite."
            )
        if node.op == "call_function" and _is_made_of_tensors(node) and any(at in twins for at in node.all_input_nodes):
            with graph.inserting_after(node):
                twin = graph.node_copy(node, lambda at: twins.get(at, at))
            twin.meta = {key: value for key, value in node.meta.items() if key != EXPLAINED}
            twin.meta["val"] = pytree.tree_map_only(Tensor, _another, node.meta["val"])
            twins[node] = twin
    for node, twin in twins.items():
        node.meta[TWIN] = twin.name
    forward.recompile()
    example = captured.example
    if example is not None:
        given = [tensor for node, tensor in zip(own, example.tensors, strict=True) if node in twins]
        example = replace(example, tensors=[*example.tensors, *given])
    return replace(captured, inputs=known, example=example)


def _counts(node: fx.Node) -> set[object]:
    """What is known at the run alone of the sizes of a value, or of a number."""
    values = pytree.tree_leaves(node.meta.get("val"))
    sizes = (size for value in values for size in (value.shape if isinstance(value, Tensor) else [value]))
    return {symbol for size in sizes for symbol in counts_in(size)}


def _counting(node: fx.Node) -> list[fx.Node]:
    """The operands that decide how many elements the value has."""
    names = traits(node.target).counted_by
    if not names:
        return node.all_input_nodes
    found: list[fx.Node] = []
    given = bind(node.target, node.args, node.kwargs)
    fx.map_arg([given[name] for name in names], found.append)
    return found


def _another(value: Tensor) -> Tensor:
    """A symbolic value of the same shape, strides and dtype: tracing tells values apart by what they are."""
    with fake_mode_of(value):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _is_made_of_tensors(node: fx.Node) -> bool:
    """Whether the value is more than a size, which is the same at the reference."""
    return is_tensor(node) or isinstance(node.meta.get("val"), list | tuple)
