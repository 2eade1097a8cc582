"""One spelling for everything: no-ops go, reshapes and batch norms get a single form.

clone(x); slice(x, 0, 0, maxint); to(x, same dtype); mul(x, 1)     →  x
view(x, s); _unsafe_view(x, s)                                     →  reshape(x, s)
squeeze(x, dims)                                                   →  squeeze(x, dims of size 1)
getitem(_native_batch_norm_legit_no_training(x, …), 0)             →  batch_norm(x, …)
getitem(topk(x, k, dim), 0)                                        →  gather(x, dim, getitem(topk(x, k, dim), 1))
getitem(max_pool2d_with_indices(x, …), 0)                          →  max_pool2d(x, …)
rsub(i, 1.0), i of integers                                        →  rsub(to(i, float), 1.0)
conv3d(x, W)                                                       →  convolution(x, W, None, …)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from lrp_compiler.rules import CHANNEL_FIRST, bind, per_dim, traits
from lrp_compiler.torch_private import OpOverload, statically_known_true

from .origin import keep_name
from .result import Result
from .tools import arguments, call, is_tensor, same_shape

aten = torch.ops.aten

CHECKS = {aten._assert_tensor_metadata.default, aten._assert_async.msg, aten._assert_scalar.default}
SQUEEZES = {aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims}
RESHAPES = {aten.view.default, aten._unsafe_view.default}
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
POOLS: dict[object, OpOverload] = {
    aten.max_pool2d_with_indices.default: aten.max_pool2d.default,
    aten.max_pool3d_with_indices.default: aten.max_pool3d.default,
}
"""Pools whose values another op gives without the indices."""
EXTREMES: dict[object, OpOverload] = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
"""Likewise of a dim."""


def canonicalise(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    changed, declined = False, []
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        kept = _why_kept(node)
        if node.target in CHECKS:
            module.graph.erase_node(node)
        elif kept == "":
            keep_name(node, node.args[0])
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target in RESHAPES:
            node.target = aten.reshape.default
        elif node.target in SQUEEZES and (dims := _of_one(node)) is not None:
            node.target, node.args = aten.squeeze.dims, (node.args[0], dims)
        elif node.target is aten.conv3d.default and _has_no_bias(node):
            _rewrite_conv3d(node)
        elif node.target is aten.rsub.Scalar and _promotes(node):
            _cast_first(node)
        elif node.target is operator.getitem and getattr(node.args[0], "target", None) is BATCH_NORM:
            _rewrite_batch_norm(module.graph, node)
        elif (rewrite := _rewrite_of_values(node)) is not None:
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(rewrite(node.args[0]))
            module.graph.erase_node(node)
        else:
            if kept:
                declined.append((node.name, kept))
            continue
        changed = True
    changed |= module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _names_an_input(node: fx.Node) -> bool:
    """Whether the node is what makes an output of an input that is returned as it came."""
    source = node.args[0]
    returned = any(user.op == "output" for user in node.users)
    return returned and isinstance(source, fx.Node) and source.op != "call_function"


def _of_one(node: fx.Node) -> list[int] | None:
    """The dims that a squeeze takes away, if it names others: torch passes over them, other runtimes refuse them."""
    sizes = arguments(node)[0].meta["val"].shape
    named = [range(len(sizes)), *arguments(node)[1:]][-1]
    dims = [dim % len(sizes) for dim in ([named] if isinstance(named, int) else named)] if sizes else []
    kept = [dim for dim in dims if statically_known_true(sizes[dim] == 1)]
    return None if kept == dims and len(node.args) > 1 else kept


def _has_no_bias(node: fx.Node) -> bool:
    return bind(node.target, node.args, node.kwargs)["bias"] is None


def _promotes(node: fx.Node) -> bool:
    source = node.args[0]
    return is_tensor(source) and source.meta["val"].dtype != node.meta["val"].dtype


def _cast_first(node: fx.Node) -> None:
    """The ONNX exporter stumbles over a plain number minus a tensor of another dtype than the result's."""
    with node.graph.inserting_before(node):
        cast = call(node.graph, aten._to_copy.default, node.args[0], dtype=node.meta["val"].dtype, like=node)
    node.args = (cast, *node.args[1:])


def _rewrite_conv3d(node: fx.Node) -> None:
    given = bind(node.target, node.args, node.kwargs)
    stride, padding, dilation = (per_dim(given[name], 3) for name in ("stride", "padding", "dilation"))
    target, *rest = convolution_of(None, stride, padding, dilation, given["groups"])
    node.target, node.kwargs = target, {}
    node.args = (given["input"], given["weight"], None, *rest)


def convolution_of(
    bias: fx.Node | None, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Any, ...]:
    """The op of a convolution, and its arguments behind input, weight and bias.

    The ONNX exporter makes a bias of a wrong shape for a conv3d without one; `convolution` it translates rightly.

    Args:
        bias: None: there is none.
        stride: by dim, as all that follow.
    """
    dims = len(stride)
    if dims == 3 and bias is None:
        return aten.convolution.default, stride, padding, dilation, False, [0] * dims, groups
    return CHANNEL_FIRST[dims - 1], stride, padding, dilation, groups


def _why_kept(node: fx.Node) -> str | None:
    """Why a node stays that may do nothing; "": it does nothing and goes; `None`: it does something."""
    source, *rest = arguments(node) or (None,)
    if not is_tensor(source) or not is_tensor(node) or not _may_do_nothing(node, rest):
        return None
    if not traits(node.target).copies:
        value, before = node.meta["val"], source.meta["val"]
        if value.dtype != before.dtype or value.dim() != before.dim():
            return None
        if not same_shape(node, source):
            other = any(statically_known_true(a != b) for a, b in zip(value.shape, before.shape, strict=True))
            return None if other else "its shape may be another one than its operand's, or not"
    return "it returns an input as it came" if _names_an_input(node) else ""


def _may_do_nothing(node: fx.Node, rest: Sequence[object]) -> bool:
    """Whether it hands on the values of its operand where shape and dtype stay."""
    known = traits(node.target)
    if known.copies:
        return True
    if known.neutral is not None:
        return isinstance(rest[0], (int, float)) and rest[0] == known.neutral and not node.kwargs
    return known.may_do_nothing is not None and known.may_do_nothing(bind(node.target, node.args, node.kwargs))


def _rewrite_of_values(node: fx.Node) -> Callable[[fx.Node], fx.Node] | None:
    """How the first result of an op that also gives indices is had without it, if it is one."""
    if node.target is not operator.getitem or node.args[1] != 0:
        return None
    target = getattr(node.args[0], "target", None)
    if target in EXTREMES:
        return _extreme
    return _gathered if traits(target).ranks else _pooled if target in POOLS else None


def _gathered(ranking: fx.Node) -> fx.Node:
    given = bind(ranking.target, ranking.args, ranking.kwargs)
    source, dim, graph = given["self"], given["dim"], ranking.graph
    indices = call(graph, operator.getitem, ranking, 1, like=ranking)
    if indices.meta["val"].dim() == source.meta["val"].dim():
        return call(graph, aten.gather.default, source, dim, indices, like=ranking)
    places = call(graph, aten.unsqueeze.default, indices, dim, like=ranking)
    values = call(graph, aten.gather.default, source, dim, places, like=ranking)
    return call(graph, aten.squeeze.dim, values, dim, like=ranking)


def _extreme(ranking: fx.Node) -> fx.Node:
    given = bind(ranking.target, ranking.args, ranking.kwargs)
    return call(ranking.graph, EXTREMES[ranking.target], given["self"], [given["dim"]], given["keepdim"], like=ranking)


def _pooled(pool: fx.Node) -> fx.Node:
    return call(pool.graph, POOLS[pool.target], *pool.args, like=pool, **pool.kwargs)


def _rewrite_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """The first result of the native op is the normalised tensor; the saved statistics are unused when evaluating."""
    norm = arguments(node)[0]
    x, weight, bias, mean, variance, momentum, epsilon = norm.args
    with graph.inserting_before(node):
        plain = call(
            graph, aten.batch_norm.default, x, weight, bias, mean, variance, False, momentum, epsilon, False, like=norm
        )
    plain.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(plain)
    graph.erase_node(node)
