"""A graph run in float64, whatever precision it was traced in: what is left then is what it says, not how it rounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.torch_private import pytree

from .scan import Scan

RAISED = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64)
RAISED |= dict.fromkeys((torch.complex32, torch.complex64), torch.complex128)
HALF_TO_FLOAT = {torch.ops.aten._softmax.default, torch.ops.aten._log_softmax.default}
"""Ops whose third argument asks for float32 made of float16, and nothing else."""


class Float64(fx.Interpreter):
    """Runs a graph in float64: inputs, weights, what ops create, and the dtypes that they are told to cast to."""

    def run_node(self, node: fx.Node) -> Any:
        """The node's value, raised: weights and buffers too."""
        return _raised(super().run_node(node))

    def call_function(self, target: object, args: object, kwargs: object) -> Any:
        """The call, with every dtype that it names raised."""
        return in_float64(target, args, kwargs)


def in_float64(target: Any, args: Any, kwargs: Any) -> Any:
    """What the call makes of its arguments in float64, with every dtype that it names raised."""
    if target in HALF_TO_FLOAT:
        args = (*args[:2], False)
    if isinstance(target, Scan):
        target = target.with_body(Float64(target.body).run)
    return _raised(target(*_raised(args), **_raised(kwargs)))


def _raised(tree: object) -> Any:
    """The tree with its floating-point tensors and dtypes in double precision."""

    def raised(leaf: object) -> object:
        if isinstance(leaf, Tensor):
            return leaf.to(RAISED.get(leaf.dtype, leaf.dtype))
        return RAISED.get(leaf, leaf) if isinstance(leaf, torch.dtype) else leaf

    return pytree.tree_map(raised, tree)
