"""A product of a few scattered elements with weights reads the rows that these stand for.

    pad(scatter_add(0 [.., classes], -1, index [.., k], r [.., k])) @ W    →    pad(Σ_k W[index] ⊙ r)

Relevance of the chosen logits of a layer comes back like this: of a vocabulary of 50,000 one token at each position.
The full product costs what the layer's forward does, and its operand is as large as all logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import Result, arguments, call_like, is_tensor
from lrp_compiler.rules import bind

aten = torch.ops.aten

FEW = 8
"""Elements at each position up to which their rows are read."""


def look_up_rows(module: fx.GraphModule) -> Result:
    """Rewrite the joint graph in place."""
    changed, declined = False, []
    for node in list(module.graph.nodes):
        if node.target is not aten.matmul.default:
            continue
        reason = _rewrite(node)
        changed |= reason is None
        declined += [(node.name, reason)] if reason else []
    if changed:
        module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _rewrite(node: fx.Node) -> str | None:
    """Rewrite one product; why not, if it is let be ("": it is none of scattered elements)."""
    left, weight = arguments(node)
    pad: list[Any] = []
    alone = is_tensor(left) and len(left.users) == 1
    if is_tensor(left) and left.target is aten.pad.default and len(left.args) == 2:
        left, pad = arguments(left)
    if not is_tensor(left) or left.target is not aten.scatter_add.default:
        return ""
    given = bind(left.target, left.args, left.kwargs)
    index, values, rank = given["index"], given["src"], left.meta["val"].dim()
    if given["self"].target is not aten.zeros.default:
        return "its elements are added to something"
    if given["dim"] % rank != rank - 1 or rank < 2 or not is_tensor(weight) or weight.meta["val"].dim() != 2:
        return "its elements are not along the rows of a matrix"
    if not alone or len(left.users) > 1 or any(pad[:2]):
        return "the whole tensor is read besides"
    count = index.meta["val"].shape[-1]
    if not isinstance(count, int) or count > FEW:
        return f"there are more than {FEW} elements at each place"
    graph = node.graph
    with graph.inserting_before(node):
        rows = call_like(graph, node, aten.embedding.default, weight, index)
        shares = call_like(graph, node, aten.unsqueeze.default, values, -1)
        product = call_like(graph, node, aten.mul.Tensor, rows, shares)
        squeezed = (aten.select.int, (-2, 0)) if count == 1 else (aten.sum.dim_IntList, ([-2],))
        result = call_like(graph, node, squeezed[0], product, *squeezed[1])
        if pad:
            # Not worked out again: torch would fix an open size.
            result = graph.call_function(aten.pad.default, (result, pad))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return None
