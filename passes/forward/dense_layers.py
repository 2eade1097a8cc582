"""Dense layers that are written as products of matrices, as exporters do, made one op again.

    matmul(x, W)                    →    linear(x, Wᵀ)
    add(matmul(x, W), b)            →    linear(x, Wᵀ, b)

W is a constant matrix, b a constant vector. As two steps the product and the sum would have a stabiliser each, and
nothing could be folded into the weights. A weight whose own relevance is asked for stays as it lies.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import (
    Result,
    add_constant,
    arguments,
    call,
    constant_of,
    is_between,
    module_path,
    takes_up,
)
from lrp_compiler.rules import bind, traits

aten = torch.ops.aten


def recognise_dense_layers(module: fx.GraphModule, kept: Collection[str] = (), apart: Collection[str] = ()) -> Result:
    """Rewrite the forward graph in place.

    Args:
        module: the forward graph.
        kept: modules and parameters; a product that is in one of these, or with one of them, stays as it is.
        apart: modules whose own value is needed as it leaves them: no bias is added to it.
    """
    turned: dict[fx.Node, fx.Node] = {}
    changed, declined = False, []
    for node in list(module.graph.nodes):
        matrices = traits(node.target).matrices
        if matrices is None:
            continue
        given = bind(node.target, node.args, node.kwargs)
        x, weight = (given[name] for name in matrices)
        matrix = constant_of(module, weight)
        if matrix is None or x.op == "get_attr" or x.meta["val"].dim() < 2 or not _is_matrix(matrix):
            continue
        if _is_asked_for(weight, kept) or module_path(node) in kept:
            declined.append((node.name, "its own relevance is asked for"))
            continue
        end, bias = _with_bias(module, node, matrix.shape[1])
        if is_between(node, end, apart):
            end, bias = node, None
        rows = _transposed(module, weight, matrix, turned)
        with module.graph.inserting_before(end):
            dense = call(module.graph, aten.linear.default, x, rows, *([] if bias is None else [bias]), like=node)
        takes_up(dense, end)
        end.replace_all_uses_with(dense)
        changed = True
    changed |= module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _is_matrix(weight: Tensor) -> bool:
    return weight.dim() == 2 and weight.is_floating_point()


def _is_asked_for(weight: fx.Node, kept: Collection[str]) -> bool:
    return not {*weight.meta.get("parameter", ())}.isdisjoint(kept)


def _with_bias(module: fx.GraphModule, node: fx.Node, features: int) -> tuple[fx.Node, fx.Node | None]:
    """The addition of a constant vector behind a product, and the vector; else the product."""
    user = next(iter(node.users), None)
    if user is None or len(node.users) > 1 or user.target is not aten.add.Tensor or user.kwargs:
        return node, None
    left, right = arguments(user)
    bias = right if left is node else left
    vector = constant_of(module, bias)
    fits = vector is not None and list(vector.shape) == [features] and vector.dtype == node.meta["val"].dtype
    return (user, bias) if fits else (node, None)


def _transposed(module: fx.GraphModule, weight: fx.Node, matrix: Tensor, known: dict[fx.Node, fx.Node]) -> fx.Node:
    """The transpose as a constant: a view of the same memory, made once for all products with it."""
    if weight not in known:
        with module.graph.inserting_after(weight):
            turned = add_constant(module, f"{weight.target}_transposed", matrix.t(), weight.meta["val"])
        known[weight] = turned
    return known[weight]
