"""Batch norm folded into the linear map before it.

    conv2d(x, W, b) → batch_norm(·, w, β, μ, σ²)    →    conv2d(x, W·s, (b − μ)·s + β),  s = w/√(σ² + ε)

The folded weights are new tensors, worked out in float64; the model's own are left alone. A batch norm whose input
has other consumers, or that follows no linear map, stays an op of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from lrp_compiler.passes.graph.tools import add_constant, constant_of

aten = torch.ops.aten

OUTPUT_CHANNEL = {
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv3d.default: 0,
    aten.linear.default: 0,
}
"""Ops that a batch norm folds into, with the dim of their weight that is the output channel."""


def fold_batch_norm(module: fx.GraphModule) -> PassResult:
    """Rewrite the forward graph in place."""
    changed = False
    for norm in list(module.graph.nodes):
        if norm.op != "call_function" or norm.target is not aten.batch_norm.default or norm.args[5]:
            continue
        source = norm.args[0]
        if source.target not in OUTPUT_CHANNEL or len(source.users) != 1:
            continue
        # A linear layer's channel is its last dim, a batch norm's the second.
        if source.target is aten.linear.default and source.meta["val"].dim() != 2:
            continue
        statistics = [None if arg is None else constant_of(module, arg) for arg in norm.args[1:5]]
        weight = constant_of(module, source.args[1])
        bias_node = source.args[2] if len(source.args) > 2 else None
        bias = None if bias_node is None else constant_of(module, bias_node)
        given = [(source.args[1], weight), (bias_node, bias), *zip(norm.args[1:5], statistics, strict=True)]
        if weight is None or any(node is not None and tensor is None for node, tensor in given):
            continue
        folded_weight, folded_bias = _fold(weight, bias, statistics, norm.args[7], OUTPUT_CHANNEL[source.target])
        fake = source.args[0].meta["val"]
        with module.graph.inserting_before(source):
            name = str(source.args[1].target)
            new_weight = add_constant(module, f"{name}_folded", folded_weight, fake)
            new_bias = add_constant(module, f"{name}_folded_bias", folded_bias, fake)
        # A weight keeps its share of relevance when it is scaled, and the shift is the bias's.
        for new, old in ((new_weight, source.args[1]), (new_bias, bias_node or norm.args[2])):
            if old is not None and "parameter" in old.meta:
                new.meta["parameter"] = old.meta["parameter"]
        source.args = (source.args[0], new_weight, new_bias, *source.args[3:])
        norm.replace_all_uses_with(source)
        module.graph.erase_node(norm)
        changed = True
    module.graph.eliminate_dead_code()
    module.recompile()
    return PassResult(module, changed)


def _fold(
    weight: Tensor, bias: Tensor | None, statistics: list[Tensor | None], epsilon: float, channel: int
) -> tuple[Tensor, Tensor]:
    gamma, beta, mean, variance = (None if item is None else item.double() for item in statistics)
    assert mean is not None
    assert variance is not None
    scale = torch.rsqrt(variance + epsilon)
    scale = scale if gamma is None else scale * gamma
    shift = -mean if bias is None else bias.double() - mean
    shift = shift * scale if beta is None else shift * scale + beta
    shape = [-1 if dim == channel else 1 for dim in range(weight.dim())]
    return (weight.double() * scale.view(shape)).to(weight.dtype), shift.to(weight.dtype)
