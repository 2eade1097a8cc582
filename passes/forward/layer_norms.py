"""Layer norms that are written out in primitives, as exporters and hand-written modules do, made one op again.

    d = x − mean(x);  d / √(mean(d²) + ε) · w + b        →    layer_norm(x, shape, w, b, ε)

The statistics are taken over the last dims, which are static; the root may be taken in any spelling (1/√v, v^−½). The
weight and the bias come along where they are constants of the shape that is normalised. Otherwise every primitive
would have a rule and a stabiliser of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx.node import Argument

from lrp_compiler.passes.graph import Result, arguments, call, constant_of, is_tensor
from lrp_compiler.torch_private import OpOverload

aten = torch.ops.aten


class Norm(NamedTuple):
    """What a layer norm takes."""

    x: fx.Node
    shape: list[int]
    epsilon: float


def recognise_layer_norms(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    changed, declined = False, []
    for node in list(module.graph.nodes):
        norm = _norm(module, node)
        if isinstance(norm, str):
            declined += [(node.name, norm)] if norm else []
            continue
        scaled, weight = _affine(module, node, aten.mul.Tensor, norm.shape)
        end, bias = _affine(module, scaled, aten.add.Tensor, norm.shape)
        with module.graph.inserting_before(end):
            whole = call(
                module.graph, aten.layer_norm.default, norm.x, norm.shape, weight, bias, norm.epsilon, like=end
            )
        end.replace_all_uses_with(whole)
        changed = True
    changed |= module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _norm(module: fx.GraphModule, node: fx.Node) -> Norm | str:
    """The norm, without weights, whose last step the node is; or what keeps x − mean(x) over a root from being one."""
    reason = ""
    for centred, variance in _quotients(node):
        mean = _second(centred, aten.sub.Tensor)
        if not (is_tensor(mean) and mean.target is aten.mean.dim and mean.args[0] is centred.args[0]):
            continue
        moment, epsilon = _sum_with_number(module, variance)
        x = arguments(mean)[0]
        shape = _trailing(x, mean)
        if moment is None or moment.target is not aten.mean.dim or not _is_square(moment.args[0], centred):
            reason = "under its root is not the mean of its squares and a number"
        elif shape is None:
            reason = "its mean is not over the last dims, kept and of known sizes"
        elif _trailing(x, moment) != shape:
            reason = "its variance is over other dims than its mean"
        elif x.meta["val"].dtype != node.meta["val"].dtype:
            reason = "its dtype is not that of what it normalises"
        else:
            return Norm(x, shape, epsilon)
    return reason


def _quotients(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Pairs (a, v) for which the node is a/√v."""
    if not is_tensor(node) or len(node.args) < 2 or not all(is_tensor(operand) for operand in node.args[:2]):
        return []
    left, right = arguments(node)[:2]
    if node.target is aten.div.Tensor:
        pairs = [(left, _under_root(right, 0.5))]
    elif node.target is aten.mul.Tensor:
        pairs = [(left, _under_root(right, -0.5)), (right, _under_root(left, -0.5))]
    else:
        return []
    return [(value, variance) for value, variance in pairs if variance is not None]


def _under_root(node: object, power: float) -> fx.Node | None:
    """v, if the node is v to this power, ½ or −½."""
    while is_tensor(node) and node.op == "call_function":
        first: Any = node.args[0]
        value: fx.Node | None = first if is_tensor(first) else None
        if node.target is aten.pow.Tensor_Scalar:
            return value if arguments(node)[1] == power else None
        if node.target is (aten.sqrt.default if power > 0 else aten.rsqrt.default):
            return value
        if node.target is aten.reciprocal.default:
            node, power = value, -power
        elif node.target is aten.div.Tensor and value is None and first == 1:
            node, power = node.args[1], -power
        else:
            return None
    return None


def _second(node: fx.Node, target: OpOverload) -> Argument:
    """What is subtracted or added, if the node is that and nothing more."""
    fits = node.target is target and len(node.args) == 2 and not node.kwargs
    return node.args[1] if fits else None


def _sum_with_number(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node | None, float]:
    if _second(node, aten.add.Tensor) is None:
        return None, 0.0
    for value, number in (arguments(node)[:2], arguments(node)[1::-1]):
        constant = constant_of(module, number)
        if constant is not None and constant.numel() == 1:
            number = float(constant)
        if is_tensor(value) and isinstance(number, int | float):
            return value, float(number)
    return None, 0.0


def _is_square(node: object, of: fx.Node) -> bool:
    if not is_tensor(node):
        return False
    operands = list(node.args)
    return (node.target, operands) in (
        (aten.pow.Tensor_Scalar, [of, 2]),
        (aten.mul.Tensor, [of, of]),
        (aten.square.default, [of]),
    )


def _trailing(x: fx.Node, mean: fx.Node) -> list[int] | None:
    """Sizes of the dims that a mean goes over, if they are the last ones, and kept."""
    _, dims, *rest = arguments(mean)
    rank = x.meta["val"].dim()
    taken = sorted(dim % rank for dim in (dims or range(rank)))
    if [*rest, *mean.kwargs.values()] != [True] or taken != list(range(rank - len(taken), rank)):
        return None
    sizes = list(x.meta["val"].shape[taken[0] :])
    return sizes if all(isinstance(size, int) for size in sizes) else None


def _affine(
    module: fx.GraphModule, node: fx.Node, target: OpOverload, shape: list[int]
) -> tuple[fx.Node, fx.Node | None]:
    """The step behind the node that takes a constant of this shape, and the constant; else the node itself."""
    user = next(iter(node.users), None)
    if user is None or len(node.users) > 1 or _second(user, target) is None:
        return node, None
    left, right = arguments(user)
    other = right if left is node else left
    constant = constant_of(module, other)
    fits = constant is not None and list(constant.shape) == shape and constant.dtype == node.meta["val"].dtype
    return (user, other) if fits else (node, None)
