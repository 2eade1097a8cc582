"""Activation functions that are written out in primitives, as exporters and hand-written modules do, made one op again.

    x · ½ · (1 + erf(x/√2))    →    gelu(x)
    x · sigmoid(x)             →    silu(x)
    1/(1 + exp(−x))            →    sigmoid(x)

Not the spelling decides but the function: a node at which elementwise paths from one value meet again is worked out at
some points, and compared with the functions that have an op, constants rounded to float32 taken into account. So every
spelling has the op's own rule, and nothing divides by x. A sigmoid is a chain without a meeting: it is looked for where
a number is divided, since step by step its relevance is not a number once exp overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import Dominators, Result, arguments, call, constant_of, inverts, is_tensor, same_shape
from lrp_compiler.rules import OPERATORS, traits
from lrp_compiler.torch_private import OpOverload

aten = torch.ops.aten

KNOWN: tuple[tuple[OpOverload, Mapping[str, Any]], ...] = (
    (aten.gelu.default, {}),
    (aten.gelu.default, {"approximate": "tanh"}),
    (aten.silu.default, {}),
    (aten.hardswish.default, {}),
    (aten.mish.default, {}),
)
"""Ops of one operand, and their options."""
LONGEST = 5
"""Steps of a sigmoid at most."""
REACH = 16
"""Nodes of a region at most."""
TOLERANCE = 1e-6
"""Of float32's constants."""
NEAR = 0.05
"""What differs by less, at any point, was meant as an approximation: x · sigmoid(1.702 x) is 0.02 from GELU."""


def recognise_functions(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    tree = Dominators()
    changed, declined = False, []
    for node in list(module.graph.nodes):
        operands = _operands(module, node)
        if not operands:
            tree.starts(node)
            continue
        root = tree.follows(node, operands)
        if inverts(node) and (logits := _logits(module, node)) is not None:
            root, sign = logits
            with module.graph.inserting_before(node):
                turned = root if sign > 0 else call(module.graph, aten.neg.default, root, like=node)
                whole = call(module.graph, aten.sigmoid.default, turned, like=node)
            node.replace_all_uses_with(whole)
            tree.follows(turned, [root])
            tree.follows(whole, [turned])
            changed = True
            continue
        if root is None or len(set(operands)) < 2:
            continue
        found = _whole(module, node, root)
        if isinstance(found, str):
            declined += [(node, found)] if found else []
        else:
            end, target, options = found
            with module.graph.inserting_before(end):
                whole = call(module.graph, target, root, like=end, **options)
            end.replace_all_uses_with(whole)
            tree.follows(whole, [root])
            changed = True
    changed |= module.graph.eliminate_dead_code()
    # What looked like one on the way may have become part of another.
    return Result(module, changed, [(node.name, reason) for node, reason in declined if node.users])


def _operands(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """What an elementwise node of floats reads besides single numbers; nothing of any other node."""
    if node.op != "call_function" or not is_tensor(node) or not node.meta["val"].is_floating_point():
        return []
    families = {entry.family for entry in OPERATORS.get(node.target, ())}
    if not (traits(node.target).pairs or "elementwise" in families):
        return []
    read = [operand for operand in node.all_input_nodes if not _is_number(module, operand)]
    value = node.meta["val"]
    alike = all(is_tensor(one) and same_shape(one, node) for one in read)
    return read if alike and all(one.meta["val"].dtype == value.dtype for one in read) else []


def _logits(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, int] | None:
    """The value that the node is the sigmoid of, and +1; or −1, of whose negative it is."""
    chain = [node]
    while len(chain) <= LONGEST and len(operands := set(_operands(module, chain[-1]))) == 1:
        chain += operands
    for sign in (1, -1):
        wanted = torch.sigmoid(sign * _points())
        for root in chain[1:]:
            result = _value(module, node, {root: _points()})
            if result is not None and torch.allclose(result, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                return root, sign
    return None


def _is_number(module: fx.GraphModule, node: fx.Node) -> bool:
    constant = constant_of(module, node)
    return constant is not None and constant.numel() == 1


def _whole(module: fx.GraphModule, node: fx.Node, root: fx.Node) -> tuple[fx.Node, OpOverload, Mapping[str, Any]] | str:
    """The end of the region and the op that does the same; a factor may still stand behind the node.

    Of what is only close to one of them: by how much it differs; "": it is far from all.
    """
    least, reason = NEAR, ""
    points = _points()
    values: dict[fx.Node, Tensor] = {root: points}
    result = _value(module, node, values)
    while result is not None:
        for (target, options), known in zip(KNOWN, _known(), strict=True):
            if torch.allclose(result, known, rtol=TOLERANCE, atol=TOLERANCE):
                return node, target, options
            difference = float((result - known).abs().max())
            if difference < least:
                least = difference
                reason = f"it differs from {target.overloadpacket.__name__} by up to {difference:.1g}"
        user = next(iter(node.users), None)
        if user is None or len(node.users) > 1 or not traits(user.target).powers:
            return reason
        if _operands(module, user) != [node] or sum(one is node for one in arguments(user)) != 1:
            return reason
        node, result = user, _value(module, user, values)
    return reason


def _value(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Tensor]) -> Tensor | None:
    """The node as a function of its root; None where more goes in, or too much."""
    waiting = [node]
    while waiting:
        current = waiting[-1]
        missing = [operand for operand in current.all_input_nodes if operand not in values]
        for operand in missing:
            if _is_number(module, operand):
                values[operand] = constant_of(module, operand).double().reshape(())  # type: ignore[union-attr]
            elif not _operands(module, operand) or len(values) > REACH:
                return None
            else:
                waiting.append(operand)
        if waiting[-1] is current:
            function: Callable[..., Tensor] = current.target  # type: ignore[assignment]
            given: Any = fx.map_arg((current.args, current.kwargs), values.__getitem__)
            values[current] = function(*given[0], **given[1])
            waiting.pop()
    found = values[node]
    return found if found.dtype == torch.float64 else None


@cache
def _points() -> Tensor:
    return torch.linspace(-7, 7, 57, dtype=torch.float64)


@cache
def _known() -> list[Tensor]:
    return [target(_points(), **options) for target, options in KNOWN]
