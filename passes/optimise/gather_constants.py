"""What is added to a map that depends on no input becomes the map's bias.

    conv(x, W) + b + ε                      →    conv(x, W, b + ε)
    conv(x, V) + conv(y, W) + b + ε         →    conv(x, V) + conv(y, W, b + ε)

The denominators of the signed rules look like this. One pass over the result instead of three; the sum of constants
is calculated once, when a runtime loads the file.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from lrp_compiler.passes.graph.inline import inline
from lrp_compiler.passes.graph.notes import note_of
from lrp_compiler.passes.graph.tools import arguments, is_tensor

aten = torch.ops.aten

MAPS: dict[Any, int] = {
    aten.conv1d.default: 1,
    aten.conv2d.default: 2,
    aten.linear.default: 0,
}
"""Those that take a bias as their third argument, and how many dims follow the one that it lies along."""


def gather_constants(module: fx.GraphModule) -> PassResult:
    """Rewrite the joint graph in place."""
    constant = _constants(module)
    changed = False
    for node in list(module.graph.nodes):
        if node.target is aten.add.Tensor and not _continues(node):
            changed |= _rewrite(node, _terms(node), constant)
    if changed:
        module.graph.eliminate_dead_code()
        module.recompile()
    return PassResult(module, changed)


def _constants(module: fx.GraphModule) -> set[fx.Node]:
    """The values that depend on weights alone."""
    known: set[fx.Node] = set()
    for node in module.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and sources and known.issuperset(sources)):
            known.add(node)
    return known


def _is_sum(node: Any) -> bool:
    # A relevance that has a name of its own stays as it is.
    return isinstance(node, fx.Node) and node.target is aten.add.Tensor and not node.kwargs and not _is_named(node)


def _is_named(node: fx.Node) -> bool:
    return "form" in note_of(node)


def _continues(node: fx.Node) -> bool:
    """Whether the sum is a term of another one, and of nothing else."""
    users = list(node.users)
    return len(users) == 1 and _is_sum(node) and _is_sum(users[0])


def _terms(node: Any) -> list[Any]:
    """The terms of a sum, those of sums that it alone reads among them."""
    terms: list[Any] = []
    for term in arguments(node):
        terms += _terms(term) if _is_sum(term) and _continues(term) else [term]
    return terms


def _rewrite(node: fx.Node, terms: list[Any], constant: set[fx.Node]) -> bool:
    if not _is_sum(node):
        return False
    maps = [term for term in terms if _takes_bias(term, node)]
    if not maps:
        return False
    taken = [term for term in terms if _fits(term, maps[-1], constant)]
    rest = [term for term in terms if term not in taken and term is not maps[-1]]
    if not taken or any(not is_tensor(term) for term in rest):
        return False
    biased = _with_bias(maps[-1], taken, node)
    result = biased
    for term in rest:
        result = inline(node, torch.add, (term, result))
    result.meta = {**result.meta, **{key: value for key, value in node.meta.items() if key != "val"}}
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    return True


def _takes_bias(term: Any, total: fx.Node) -> bool:
    """A map without a bias that nobody else reads, as large as the sum."""
    if not isinstance(term, fx.Node) or term.target not in MAPS or len(term.users) != 1 or _is_named(term):
        return False
    bias = arguments(term)[2:3]
    return bias in ((), (None,)) and len(term.meta["val"].shape) == len(total.meta["val"].shape)


def _fits(term: Any, map_: fx.Node, constant: set[fx.Node]) -> bool:
    """A number, or a constant that differs along the channels alone."""
    if isinstance(term, (int, float)):
        return True
    if term not in constant or not is_tensor(term):
        return False
    value, channels = term.meta["val"], map_.args[1].meta["val"].shape[0]  # type: ignore[union-attr]
    after = MAPS[map_.target]
    shape = [1] * after + list(value.shape)  # a scalar is as good as one that differs nowhere
    trailing = shape[len(shape) - after :] if value.dim() else [1] * after
    along = value.shape[value.dim() - after - 1] if value.dim() > after else 1
    sizes_match = prod(value.shape) == along and all(size == 1 for size in trailing)
    return value.is_floating_point() and sizes_match and along in (1, channels)


def _with_bias(map_: fx.Node, taken: list[Any], node: fx.Node) -> fx.Node:
    """The map with the sum of the constants for a bias, in front of `node`."""
    weight: Any = map_.args[1]
    channels, dtype = weight.meta["val"].shape[0], weight.meta["val"].dtype
    tensors = [term for term in taken if is_tensor(term)]
    number = sum(term for term in taken if not is_tensor(term))

    def biased(x: Any, w: Any, constants: list[Any], options: list[Any]) -> Any:
        bias = torch.full((channels,), float(number), dtype=dtype, device=w.device)
        if constants:
            bias = sum((term.reshape(-1) for term in constants[1:]), constants[0].reshape(-1))
            bias = (bias + number if number else bias).expand(channels)
        return map_.target(x, w, bias, *options)  # type: ignore[operator]

    return inline(node, biased, (map_.args[0], weight, tensors, list(map_.args[3:])))
