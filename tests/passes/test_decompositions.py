"""Ops that are written out: the same numbers as torch's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.decompositions import DECOMPOSITIONS

aten = torch.ops.aten


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


Q, K, V = tensor(2, 4, 3, 8), tensor(2, 4, 5, 8, seed=1), tensor(2, 4, 5, 8, seed=2)
GROUPED_K, GROUPED_V = tensor(2, 2, 5, 8, seed=1), tensor(2, 2, 5, 8, seed=2)
ALLOWED = torch.tensor([[True, False, True, True, False], [False] * 5, [True] * 5])
ATTENTION = aten.scaled_dot_product_attention.default

CALLS: dict[str, tuple[Any, tuple, dict]] = {
    "attention": (ATTENTION, (Q, K, V), {}),
    "attention, scaled": (ATTENTION, (Q, K, V), {"scale": 0.3}),
    "attention, causal": (ATTENTION, (Q, Q, Q), {"is_causal": True}),
    "attention, causal with more keys": (ATTENTION, (Q, K, V), {"is_causal": True}),
    "attention, float mask": (ATTENTION, (Q, K, V, tensor(3, 5, seed=3)), {}),
    "attention, bool mask with an empty row": (ATTENTION, (Q, K, V, ALLOWED), {}),
    "attention, grouped heads": (ATTENTION, (Q, GROUPED_K, GROUPED_V), {"enable_gqa": True}),
    "split": (aten.split.Tensor, (tensor(2, 7), 3, 1), {}),
    "split, negative dim": (aten.split.Tensor, (tensor(2, 7), 3, -1), {}),
    "split with sizes": (aten.split_with_sizes.default, (tensor(2, 7), [1, 4, 2], 1), {}),
    "chunk": (aten.chunk.default, (tensor(2, 7), 3, 1), {}),
    "chunk into more than there are": (aten.chunk.default, (tensor(2, 5), 4, 1), {}),
    "unbind": (aten.unbind.int, (tensor(2, 3), -1), {}),
    "adaptive average to 1": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 5, 7), [1, 1]), {}),
    "adaptive average, divisible": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 6, 8), [3, 2]), {}),
    "adaptive average, uneven": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 5, 7), [3, 2]), {}),
    "adaptive average, growing": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 2, 3), [4, 5]), {}),
    "adaptive average, 1d": (aten.adaptive_avg_pool1d.default, (tensor(2, 3, 7), [3]), {}),
    "adaptive average, 3d": (aten.adaptive_avg_pool3d.default, (tensor(2, 3, 4, 5, 6), [2, 2, 3]), {}),
    "conv1d, same": (aten.conv1d.padding, (tensor(2, 3, 7), tensor(4, 3, 4), tensor(4), [1], "same", [2]), {}),
    "conv2d, same": (aten.conv2d.padding, (tensor(2, 3, 5, 6), tensor(4, 3, 2, 3), None, [1, 1], "same"), {}),
    "conv2d, valid": (aten.conv2d.padding, (tensor(2, 3, 5, 6), tensor(4, 3, 2, 3), tensor(4), [2, 1], "valid"), {}),
    "conv3d, same": (
        aten.conv3d.padding,
        (tensor(1, 2, 3, 4, 5), tensor(2, 1, 2, 3, 2), None, [1], "same", [1], 2),
        {},
    ),
    "rms_norm": (aten.rms_norm.default, (tensor(2, 3, 4), [4], tensor(4)), {}),
    "rms_norm over two dims": (aten.rms_norm.default, (tensor(2, 3, 4), [3, 4], None, 0.1), {}),
    "type_as": (aten.type_as.default, (tensor(3), torch.ones(1)), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_written_out_computes_the_same(name: str) -> None:
    target, args, kwargs = CALLS[name]

    written_out, expected = DECOMPOSITIONS[target](*args, **kwargs), target(*args, **kwargs)

    torch.testing.assert_close(
        list(written_out) if isinstance(expected, (list, tuple)) else written_out,
        list(expected) if isinstance(expected, (list, tuple)) else expected,
        rtol=1e-12,
        atol=1e-13,
    )


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.AdaptiveAvgPool2d((3, 2)),
        torch.nn.AdaptiveAvgPool2d((None, 1)),
        torch.nn.AdaptiveAvgPool2d((7, 7)),
        torch.nn.Conv2d(2, 2, 2, padding="same").double(),
    ],
    ids=str,
)
def test_it_is_written_out_within_a_program(layer: torch.nn.Module) -> None:
    x = tensor(2, 2, 5, 3)
    program = torch.export.export(layer.eval(), (x,)).run_decompositions(DECOMPOSITIONS)

    torch.testing.assert_close(program.module()(x), layer(x))
