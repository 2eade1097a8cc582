"""Batch norm folded into the linear map before it.

    conv2d(x, W, b) → batch_norm(·, w, β, μ, σ²)    →    conv2d(x, W·s, (b − μ)·s + β),  s = w/√(σ² + ε)

The folded weights are new tensors, worked out in float64; the model's own are left alone. A batch norm whose input
has other consumers, or that follows no linear map, stays an op of its own; so does one that is asked for by name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import Result, add_constant, constant_of, is_between, module_path, takes_up
from lrp_compiler.rules import Arguments, bind, traits

aten = torch.ops.aten


STATISTICS = ("weight", "bias", "running_mean", "running_var")


def fold_batch_norm(module: fx.GraphModule, kept: Collection[str] = (), apart: Collection[str] = ()) -> Result:
    """Rewrite the forward graph in place.

    Args:
        module: the forward graph.
        kept: modules and parameters; a norm that is one of these, or has one of them, stays an op of its own.
        apart: modules whose own value is needed as it leaves them; nothing is folded into it.
    """
    changed, declined = False, []
    for norm in module.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        given = bind(norm.target, norm.args, norm.kwargs)
        source, statistics = given["input"], [given[name] for name in STATISTICS]
        channel = traits(source.target).output_channel
        own = {name for node in statistics[:2] if node is not None for name in node.meta.get("parameter", ())}
        asked_for = not own.isdisjoint(kept) or module_path(norm) in kept
        reason = "its own relevance is asked for" if asked_for else _obstacle(norm, given)
        if not reason and is_between(source, norm, apart):
            reason = "what it normalises is asked for"
        if reason or channel is None:
            declined.append((norm.name, reason or "no linear map comes before it"))
            continue
        taken = bind(source.target, source.args, source.kwargs)
        nodes = [taken["weight"], taken["bias"], *statistics]
        weight, bias, *known = (None if node is None else constant_of(module, node) for node in nodes)
        if weight is None or any(
            n is not None and v is None for n, v in zip(nodes, (weight, bias, *known), strict=True)
        ):
            declined.append((norm.name, "its statistics, or the map's weights, are no constants"))
            continue
        bias_node = taken["bias"]
        folded_weight, folded_bias = _fold(weight, bias, known, given["eps"], channel)
        fake = taken["input"].meta["val"]
        with module.graph.inserting_before(source):
            name = str(taken["weight"].target)
            new_weight = add_constant(module, f"{name}_folded", folded_weight, fake)
            new_bias = add_constant(module, f"{name}_folded_bias", folded_bias, fake)
        # A weight keeps its share of relevance when it is scaled, and the shift is the bias's.
        for new, old in ((new_weight, taken["weight"]), (new_bias, bias_node or given["bias"])):
            if old is not None and "parameter" in old.meta:
                new.meta["parameter"] = old.meta["parameter"]
        source.args = (source.args[0], new_weight, new_bias, *source.args[3:])
        takes_up(source, norm)
        norm.replace_all_uses_with(source)
        module.graph.erase_node(norm)
        changed = True
    changed |= module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _obstacle(norm: fx.Node, given: Arguments) -> str:
    """Why the norm cannot be folded into what comes before it; "": nothing stands in the way."""
    source = given["input"]
    if given["training"]:
        return "it takes the batch's own statistics"
    if traits(source.target).output_channel is None:
        return "no linear map comes before it"
    if len(source.users) != 1:
        return "what it normalises is read elsewhere, too"
    # A linear layer's channel is its last dim, a batch norm's the second.
    if source.target is aten.linear.default and source.meta["val"].dim() != 2:
        return "its channel is not that of the dense layer before it"
    return ""


def _fold(
    weight: Tensor, bias: Tensor | None, statistics: Sequence[Tensor | None], epsilon: float, channel: int
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
