"""What is added to a map that depends on no input becomes the map's bias.

    conv(x, W) + b + ε                      →    conv(x, W, b + ε)
    conv(x, V) + conv(y, W) + b + ε         →    conv(x, V) + conv(y, W, b + ε)

The denominators of the signed rules look like this. One pass over the result instead of three; the sum of constants
is calculated once, when a runtime loads the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from math import prod
from typing import Any, TypeGuard

import torch
from torch import fx

from lrp_compiler.passes.graph import Result, call_like, is_named, is_tensor, share_origin
from lrp_compiler.rules import bind, traits

from .sums import continues, is_sum, terms

aten = torch.ops.aten


def gather_constants(module: fx.GraphModule) -> Result:
    """Rewrite the joint graph in place."""
    constant = _constants(module)
    changed, declined = False, []
    for node in list(module.graph.nodes):
        if is_sum(node) and not is_named(node) and not continues(node, _joins):
            reason = _rewrite(node, terms(node, _joins), constant)
            changed |= reason is None
            declined += [(node.name, reason)] if reason else []
    if changed:
        module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _joins(term: fx.Node, root: fx.Node) -> bool:
    # A relevance that has a name of its own stays as it is.
    return not is_named(root)


def _constants(module: fx.GraphModule) -> set[fx.Node]:
    """The values that depend on weights alone."""
    known: set[fx.Node] = set()
    for node in module.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and sources and known.issuperset(sources)):
            known.add(node)
    return known


def _rewrite(node: fx.Node, terms: Sequence[object], constant: set[fx.Node]) -> str | None:
    """Rewrite one sum; why not, if it is let be ("": it is no sum of a map and a constant at all)."""
    able = [term for term in terms if _takes_bias(term, node)]
    maps = [term for term in able if len(term.users) == 1 and not is_named(term)]
    if not maps:
        return f"{able[-1].name} is read or asked for elsewhere, too" if able and not constant.isdisjoint(terms) else ""
    taken = [term for term in terms if _fits(term, maps[-1], constant)]
    rest = [term for term in terms if term not in taken and term is not maps[-1]]
    if not taken:
        return "" if constant.isdisjoint(terms) else "its constants are no bias: they differ along other dims"
    if any(not is_tensor(term) for term in rest):
        return "a term is neither a tensor nor a number"
    biased = _with_bias(maps[-1], taken, node)
    result = biased
    for term in rest:
        with node.graph.inserting_before(node):
            result = call_like(node.graph, node, aten.add.Tensor, term, result)
    result.meta = {**result.meta, **{key: value for key, value in node.meta.items() if key != "val"}}
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    return None


def _takes_bias(term: object, total: fx.Node) -> TypeGuard[fx.Node]:
    """A map without a bias, as large as the sum."""
    if not isinstance(term, fx.Node):
        return False
    known = traits(term.target)
    if known.bias is None or known.bias_trails is None:
        return False
    bias = bind(term.target, term.args, term.kwargs)[known.bias]
    return bias is None and len(term.meta["val"].shape) == len(total.meta["val"].shape)


def _fits(term: object, map_: fx.Node, constant: set[fx.Node]) -> bool:
    """A number, or a constant that differs along the channels alone."""
    if isinstance(term, (int, float)):
        return True
    if term not in constant or not is_tensor(term):
        return False
    value, channels = term.meta["val"], map_.args[1].meta["val"].shape[0]  # type: ignore[union-attr]
    after = traits(map_.target).bias_trails or 0
    shape = [1] * after + list(value.shape)  # a scalar is as good as one that differs nowhere
    trailing = shape[len(shape) - after :] if value.dim() else [1] * after
    along = value.shape[value.dim() - after - 1] if value.dim() > after else 1
    sizes_match = prod(value.shape) == along and all(size == 1 for size in trailing)
    return value.is_floating_point() and sizes_match and along in (1, channels)


def _with_bias(map_: fx.Node, taken: list[Any], node: fx.Node) -> fx.Node:
    """The map with the sum of the constants for a bias, in front of `node`."""
    graph, weight = node.graph, map_.args[1]
    assert isinstance(weight, fx.Node)
    known = weight.meta["val"]
    tensors = [term for term in taken if is_tensor(term)]
    number = sum(term for term in taken if not is_tensor(term))
    with graph.inserting_before(node):
        is_open = isinstance(known.shape[0], torch.SymInt)
        channels = call_like(graph, node, aten.sym_size.int, weight, 0) if is_open else known.shape[0]
        parts = [call_like(graph, node, aten.reshape.default, term, [-1]) for term in tensors]
        if parts:
            bias = reduce(partial(call_like, graph, node, aten.add.Tensor), parts)
            bias = call_like(graph, node, aten.add.Tensor, bias, number) if number else bias
            bias = call_like(graph, node, aten.expand.default, bias, [channels])
        else:
            made = {"dtype": known.dtype, "device": known.device, "pin_memory": False}
            bias = graph.call_function(aten.full.default, ([channels], float(number)), made)
            bias.meta["val"] = known.new_empty(known.shape[:1])
        biased = graph.call_function(map_.target, (map_.args[0], weight, bias, *map_.args[3:]))  # type: ignore[arg-type]
    for made_here in (bias, biased):
        share_origin(made_here, node)
    biased.meta = {**map_.meta, **biased.meta}
    return biased
