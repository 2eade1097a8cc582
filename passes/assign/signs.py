"""Which values are ≥ 0 whatever the input: after ReLU, sigmoid, softmax, exp, squares, and what keeps the sign.

Where an operand is known to be ≥ 0, |x| = x and x⁻ = 0: the signed rules fold to fewer maps.
"""

from __future__ import annotations

import torch
from torch import fx

from lrp_compiler.passes.graph.tools import arguments
from lrp_compiler.rules import bind
from lrp_compiler.rules.operators.gate import RECURRENT_GATE

from .borders import PADS

aten = torch.ops.aten

NONNEGATIVE = {
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
    aten.softmax.int,
    aten._softmax.default,
    aten._safe_softmax.default,
    aten.exp.default,
    aten.exp2.default,
    aten.cosh.default,
    aten.erfc.default,
    aten.abs.default,
    aten.square.default,
    aten.sqrt.default,
    aten.rsqrt.default,
}
KEEP_SIGN = {
    aten.cumsum.default,
    # Interpolation by weights ≥ 0; bicubic ones are not.
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest3d.vec,
    aten.upsample_linear1d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_trilinear3d.vec,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.mean.dim,
    aten.mean.default,
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.cat.default,
    aten.stack.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.gather.default,
    aten.flip.default,
    aten.roll.default,
    aten.repeat.default,
    aten.diagonal.default,
    aten.unfold.default,
    aten.amax.default,
    aten.amin.default,
    aten.minimum.default,
    aten.where.self,
    aten.masked_fill.Tensor,
    aten.scatter.src,
    aten.scatter_add.default,
    aten.index_put.default,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.masked_fill.Scalar,
    aten.scatter.value,
    aten.pow.Tensor_Tensor,
    RECURRENT_GATE,
}
"""≥ 0 if every float operand is, and every factor or value given as a plain number."""
NUMBERS = {
    aten.add.Tensor: ("self", "other", "alpha"),
    aten.mul.Tensor: ("self", "other"),
    aten.div.Tensor: ("self", "other"),
    aten.div.Scalar: ("self", "other"),
    aten.masked_fill.Scalar: ("self", "value"),
    aten.scatter.value: ("self", "value"),
}
"""Of these, those with operands that may be plain numbers."""
FILLS = {aten.full.default: 1, aten.scalar_tensor.default: 0, aten.full_like.default: 1}
"""Constants, and the argument that says of which value."""
ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.ones.default, aten.ones_like.default}
CLAMPS = {aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default}
"""≥ 0 if their lower bound is."""


def nonnegative_values(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose value is ≥ 0 for every input."""
    known: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "call_function" and _is_nonnegative(node, known):
            known.add(node)
    return known


def _is_nonnegative(node: fx.Node, known: set[fx.Node]) -> bool:
    args = arguments(node)
    if node.target in NONNEGATIVE or node.target in ZEROS:
        return True
    if node.target in FILLS:
        value = args[FILLS[node.target]]
        return isinstance(value, (int, float)) and value >= 0
    if node.target in CLAMPS:
        low, high = (*args[1:3], None, None)[:2]
        sound = isinstance(low, (int, float)) and low >= 0
        return sound and (high is None or (isinstance(high, (int, float)) and high >= 0))
    if node.target is aten.pow.Tensor_Scalar:
        return isinstance(args[1], (int, float)) and (args[1] % 2 == 0 or args[0] in known)
    if node.target is aten.maximum.default:
        return any(operand in known for operand in args)
    if node.target in PADS:
        filled = args[-1] if isinstance(args[-1], (int, float)) else 0
        return args[0] in known and filled >= 0
    if node.target in KEEP_SIGN:
        given = bind(node.target, node.args, node.kwargs)
        numbers = [given[name] for name in NUMBERS.get(node.target, ())]
        sound = all(value >= 0 for value in numbers if isinstance(value, (int, float)))
        operands = [operand for operand in node.all_input_nodes if _is_float(operand) or operand in numbers]
        return sound and all(operand in known for operand in operands)
    return False


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()
