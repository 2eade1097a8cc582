"""Writes into a tensor in place, in what was traced of a function, become values of their own.

torch.export does that to a model. A function that is traced into a graph (a dictionary's `encode`, a target's score)
keeps `scatter_`, `relu_`, `+=` as they are: here each is the op without the underscore, and who reads the tensor later
reads its result.
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.torch_private import OpOverload, op_name, schema

aten = torch.ops.aten


def without_writes(module: fx.GraphModule) -> None:
    """Rewrite a traced graph in place.

    A write into a part of a tensor that is read as a whole later (`x[:, 0] = y`), and one whose op has no form without,
    stay as they are.
    """
    place = {node: number for number, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        instead = _without(node.target)
        written = node.args[0] if node.args else None
        if instead is None or not isinstance(written, fx.Node) or _is_seen_elsewhere(written, node, place):
            continue
        with module.graph.inserting_before(node):
            new = [module.graph.call_function(instead, node.args, node.kwargs)]
            if _mixed(written, node):  # a write keeps the dtype of what is written
                new.append(module.graph.call_function(aten.to.dtype, (new[0], written.meta["val"].dtype)))
        for one in new:
            one.meta.update(node.meta)
            place[one] = place[node]
        made = new[-1]
        written.replace_all_uses_with(made, delete_user_cb=lambda user: place[user] > place[node])  # noqa: B023
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)


def _without(target: object) -> OpOverload | None:
    """Of an op that writes its first operand and no other, the op that makes a new tensor instead; else None."""
    known, name = schema(target), op_name(target) or ""
    if known is None or not known.is_mutable or not name.endswith("_"):
        return None
    written = [argument.name for argument in known.arguments if argument.alias_info is not None]
    packet = getattr(aten, name.removesuffix("_"), None)
    return getattr(packet, known.overload_name or "default", None) if written == [known.arguments[0].name] else None


def _mixed(written: fx.Node, node: fx.Node) -> bool:
    """Whether an operand has other numbers than what is written, so that torch would make the larger ones of both."""
    own = written.meta["val"].dtype
    values = [operand.meta.get("val") for operand in node.all_input_nodes]
    return any(
        isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not own for value in values
    )


def _is_seen_elsewhere(written: fx.Node, node: fx.Node, place: dict[fx.Node, int]) -> bool:
    """Whether another value that shares the tensor's memory before the write is read after it."""
    group, waiting = {written}, [written]
    while waiting:
        one = waiting.pop()
        shared = {user for user in one.users if _is_view(user)} | set(one.all_input_nodes[:1] if _is_view(one) else ())
        waiting += shared - group
        group |= shared
    before = [one for one in group - {written} if place[one] < place[node]]
    return any(place[user] > place[node] for one in before for user in one.users)


def _is_view(node: fx.Node) -> bool:
    known = schema(node.target)
    return known is not None and not known.is_mutable and any(result.alias_info for result in known.returns)
