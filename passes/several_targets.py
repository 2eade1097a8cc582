"""Several targets in one run: the walk batched over its seeds, the forward values shared.

    seeds [targets, batch, classes]    →    relevance [targets, batch, …], one forward

`torch.func.vmap` gives every tensor that depends on the seed a leading dim. Its rule for convolutions fixes the batch
to the example's, so those are batched here, with sizes that may be symbolic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = {
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
}


def over_targets(walk: Callable[[Tensor], dict[str, Tensor]], seeds: Tensor) -> dict[str, Tensor]:
    """`walk` of every seed at once.

    Args:
        walk: relevance by name, of one seed `[batch, classes]`.
        seeds: `[targets, batch, classes]`.
    """

    def one(seed: Tensor) -> dict[str, Tensor]:
        with _FoldedConvolutions():
            return walk(seed)

    result: dict[str, Tensor] = torch.func.vmap(one)(seeds)
    return result


class _FoldedConvolutions(TorchFunctionMode):
    """Convolutions through `_Folded`; everything else as it is."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in CONVOLUTIONS and not kwargs:
            return _Folded.apply(function, *args)
        return function(*args, **(kwargs or {}))


class _Folded(torch.autograd.Function):
    """A convolution that folds the targets into the batch."""

    @staticmethod
    def forward(function: Any, x: Tensor, weight: Tensor, *options: Any) -> Tensor:  # type: ignore[override]
        result: Tensor = function(x, weight, *options)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is differentiated."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Any, x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, int]:
        """Only the relevance has targets, or (where a weight's relevance is asked for) the one that convolves."""
        if in_dims[2] is None:
            x = x.movedim(in_dims[1], 0)
            y = function(x.flatten(0, 1), weight, *options)
            return y.reshape(info.batch_size, -1, *y.shape[1:]), 0
        rows = [
            function(
                x if in_dims[1] is None else x.select(in_dims[1], index),
                weight.select(in_dims[2], index),
                *options,
            )
            for index in range(info.batch_size)
        ]
        return torch.stack(rows), 0
