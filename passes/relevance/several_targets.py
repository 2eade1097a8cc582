"""Several targets in one run: the walk batched over its seeds, the forward values shared.

    seeds [targets, batch, classes]    →    relevance [targets, batch, …], one forward

`torch.func.vmap` gives every tensor that depends on the seed a leading dim. Its rules for convolutions and pads fix the
sizes to the example's, so those are batched here, with sizes that may be symbolic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lrp_compiler.rules import CONVOLUTIONS, TRANSPOSES

BATCHED = (*CONVOLUTIONS.values(), *TRANSPOSES.values())
"""Functions of an input and a weight for which torch's own batching fixes sizes."""

Seeds = TypeVar("Seeds", Tensor, dict[str, Tensor])


def over_targets(walk: Callable[[Seeds], dict[str, Tensor]], seeds: Seeds) -> dict[str, Tensor]:
    """`walk` of every seed at once.

    Args:
        walk: relevance by name, of one seed `[batch, classes]`, or of several by name, and masks.
        seeds: `[targets, batch, classes]`, or several by name, with the targets in front of each.
    """

    def one(seed: Seeds) -> dict[str, Tensor]:
        with _SymbolicSizes():
            return walk(seed)

    result: dict[str, Tensor] = torch.func.vmap(one)(seeds)
    return result


def batched(function: object, x: Tensor, weight: Tensor | None, *options: object) -> Tensor:
    """`function(x, weight, *options)`, with the targets folded into the batch where `vmap` would fix sizes."""
    apply: Callable[..., Tensor] = _Batched.apply
    return apply(function, x, weight, *options)


class _SymbolicSizes(TorchFunctionMode):
    """Functions that torch batches for fixed sizes only go through `_Batched`; everything else as it is."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in BATCHED and not kwargs.keys() & {"input", "weight"}:
            return batched(partial(function, **kwargs), *args)
        if function is functional.pad and kwargs.get("mode", "constant") == "constant" and not kwargs.get("value"):
            return batched(functional.pad, args[0], None, args[1])
        return function(*args, **kwargs)


class _Batched(torch.autograd.Function):
    """A function of x and perhaps of a weight, with the targets folded into the batch."""

    @staticmethod
    def forward(function: Callable[..., Tensor], x: Tensor, weight: Tensor | None, *options: object) -> Tensor:
        result: Tensor = function(x, *([] if weight is None else [weight]), *options)
        return result

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Nothing is differentiated."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, function: Callable[..., Tensor], x: Tensor, weight: Tensor | None, *options: object
    ) -> tuple[Tensor, int]:
        """Mostly only x has targets; where a weight's relevance is asked for, it is the weight that has them."""
        x_dim, weight_dim = in_dims[1], in_dims[2]
        if weight is None:
            return function(x.movedim(x_dim, 0), *options), 0
        if weight_dim is None:
            y = function(x.movedim(x_dim, 0).flatten(0, 1), weight, *options)
            return y.reshape(info.batch_size, -1, *y.shape[1:]), 0
        rows = [
            function(x if x_dim is None else x.select(x_dim, i), weight.select(weight_dim, i), *options)
            for i in range(info.batch_size)
        ]
        return torch.stack(rows), 0
