"""Transposed convolutions of stride 1 as plain ones, the same numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import FileCheck

from lrp_compiler.passes.optimise.lower_transposes import lower_transposes

STRIDE_1 = {
    "1d": (nn.ConvTranspose1d(2, 3, 3), (2, 2, 6)),
    "2d": (nn.ConvTranspose2d(2, 3, (3, 2)), (2, 2, 5, 6)),
    "2d, padded": (nn.ConvTranspose2d(2, 3, 3, padding=1), (2, 2, 5, 5)),
    "2d, dilated": (nn.ConvTranspose2d(2, 3, (2, 3), dilation=(3, 2), padding=(1, 2)), (2, 2, 5, 5)),
    "2d, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5)),
    "2d, depthwise": (nn.ConvTranspose2d(3, 3, 3, groups=3), (2, 3, 5, 5)),
    "2d, pointwise": (nn.ConvTranspose2d(2, 3, 1), (2, 2, 5, 5)),
    "3d": (nn.ConvTranspose3d(2, 3, 2, padding=1), (1, 2, 3, 4, 5)),
}
KEPT = {
    "strided": (nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 2, 5, 5)),
    "padded beyond the kernel": (nn.ConvTranspose2d(2, 3, 2, padding=2), (2, 2, 5, 5)),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", STRIDE_1)
def test_stride_1_becomes_a_plain_convolution(name: str, graph_of: Callable) -> None:
    layer, shape = STRIDE_1[name]
    x = torch.randn(shape, dtype=torch.float64)
    before = graph_of(layer.double(), x)
    FileCheck().check("aten.conv_transpose").run(before.code)

    result = lower_transposes(before)

    assert result.modified
    FileCheck().check_not("conv_transpose").check("aten.conv").run(result.graph_module.code)
    torch.testing.assert_close(result.graph_module(x)[0], layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", KEPT)
def test_any_other_stays(name: str, graph_of: Callable) -> None:
    layer, shape = KEPT[name]
    x = torch.randn(shape, dtype=torch.float64)

    result = lower_transposes(graph_of(layer.double(), x))

    assert not result.modified
    torch.testing.assert_close(result.graph_module(x)[0], layer(x), rtol=1e-12, atol=1e-12)
