"""Branches: one that is known when the model is read is taken.

If(p, f, g)    →    where(p, f(where(p, x, 1)), g(where(p, 1, x)))      where p is known as the model runs alone
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.torch_private import statically_known_true

from ..registry import Known, onnx_op


@onnx_op("If")
def if_else(condition: Known, *, then_branch: Callable[..., Any], else_branch: Callable[..., Any]) -> Any:
    """The branch that is taken; where values decide, both, of which the condition chooses (see `branches.py`).

    Raises:
        CaptureError: values of the inputs, or an open size, decide of what shape the results are.
    """
    if not isinstance(condition, Tensor):
        return tuple((then_branch if condition.one() else else_branch)())
    taken = condition.reshape([])
    first = then_branch(entering=partial(_harmless, taken))
    other = else_branch(entering=partial(_harmless, ~taken))
    pairs = list(zip(first, other, strict=True))
    if not all(isinstance(one, Tensor) and _alike(one, two) for one, two in pairs):
        raise CaptureError(
            "An If depends on the values of the inputs, or on an open size, and its branches return other shapes or "
            "sizes, so that there is no one graph to explain: hold the input that decides it constant, "
            "lrp.from_onnx(path, constants={'sampling_rate': 16000}), or fix the size by dynamic_shapes."
        )
    return tuple(torch.where(taken, *pair) for pair in pairs)


def _harmless(taken: Tensor, value: Any) -> Any:
    """A value as a branch reads it: itself where the branch is taken, else what does no harm."""
    if not isinstance(value, Tensor) or value.dtype is torch.bool:
        return value
    whole = not (value.is_floating_point() or value.is_complex())
    return torch.where(taken, value, torch.full([], int(not whole), dtype=value.dtype, device=value.device))


def _alike(one: Tensor, two: Any) -> bool:
    sizes = isinstance(two, Tensor) and one.dtype == two.dtype and one.dim() == two.dim()
    return sizes and all(statically_known_true(m == n) for m, n in zip(one.shape, two.shape, strict=True))
