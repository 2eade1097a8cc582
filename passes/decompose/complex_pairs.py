"""Complex numbers as pairs of real ones: the rules, and ONNX, know real numbers only.

    placeholder z; exp(z)          →          placeholder z; view_as_real(z); stack([eᵃ cos b, eᵃ sin b], −1)

An operation that has no line in one of the tables stays, alone, between `view_as_complex` and `view_as_real`; where
relevance has to pass it, it is reported by its name as one without a rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import Result, add_constant, call, constant_of, inline, is_tensor
from lrp_compiler.torch_private import pytree

from .complex_numbers import NUMBERS, Pair
from .complex_shapes import SHAPES
from .fourier import TRANSFORMS

aten = torch.ops.aten

PAIRED: dict[object, Callable[..., Pair | Tensor]] = {**NUMBERS, **SHAPES, **TRANSFORMS}
"""Ops on complex tensors → what they do on pairs."""


def pair_complex(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    found = [node for node in module.graph.nodes if any(map(_is_complex, (node, *node.all_input_nodes)))]
    parts: dict[fx.Node, fx.Node] = {}
    left: list[tuple[str, str]] = []
    for node in found:
        if node.op == "call_function" and node.target in PAIRED:
            result = inline(node, _on_pairs(node), *fx.map_arg((node.args, node.kwargs), lambda a: parts.get(a, a)))
            if _is_complex(node):
                parts[node] = result
            else:
                node.replace_all_uses_with(result)
            continue
        if node.op == "call_function":
            maker = node.args[0] if node.target is operator.getitem else node  # of an op with several results
            left.append((maker.name, f"there are no pairs for {maker.target}"))
        _given_complex(node, parts)
        if _is_complex(node):
            parts[node] = _as_pairs(module, node)
    for node in reversed(found):
        if not node.users and node.op not in ("placeholder", "output"):
            module.graph.erase_node(node)
    return Result(module, bool(found), left)


def _as_pairs(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The pairs of a constant, of an input, or of what an op without pairs gives."""
    tensor = constant_of(module, node)
    if tensor is not None:
        with module.graph.inserting_before(node):
            plain = torch.view_as_real(tensor.resolve_conj()).contiguous()
            return add_constant(module, f"{node.target}_pairs", plain, node.meta["val"])
    behind = module.graph.find_nodes(op="placeholder")[-1] if node.op == "placeholder" else node
    with module.graph.inserting_after(behind):
        return call(module.graph, aten.view_as_real.default, node, like=node)


def _given_complex(node: fx.Node, parts: dict[fx.Node, fx.Node]) -> None:
    """Hand complex numbers to a node that has no pairs."""
    for operand in node.all_input_nodes:
        if operand in parts and operand.op == "call_function" and operand.target in PAIRED:
            with node.graph.inserting_before(node):
                node.replace_input_with(
                    operand, call(node.graph, aten.view_as_complex.default, parts[operand], like=operand)
                )


def _on_pairs(node: fx.Node) -> Callable[..., Tensor]:
    """The node's function on tensors: those that stand for complex ones are pairs while it runs."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    complex_ones = [isinstance(leaf, fx.Node) and _is_complex(leaf) for leaf in leaves]

    def function(*args: object, **kwargs: object) -> Tensor:
        values = pytree.tree_leaves((args, kwargs))
        marked = [Pair(value) if is_pair else value for value, is_pair in zip(values, complex_ones, strict=True)]
        positional, named = pytree.tree_unflatten(marked, spec)
        result = PAIRED[node.target](*positional, **named)
        return result.parts if isinstance(result, Pair) else result

    return function


def _is_complex(node: fx.Node) -> bool:
    return is_tensor(node) and bool(node.meta["val"].is_complex())
