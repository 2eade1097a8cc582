"""The matrices of an interpolation, where rounding makes positions differ from what one would expect."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.rules import Op, find

aten = torch.ops.aten
# Sizes and factors at which ⌊i · size/want⌋ depends on the precision it is computed in, or equal sizes are special.
LINES: list[tuple[int, dict[str, Any]]] = [
    (2, {"output_size": [41]}),
    (3, {"output_size": [123]}),
    (6, {"output_size": [6]}),
    (5, {"output_size": [12]}),
    (4, {"scale_factors": [1.1]}),
    (7, {"scale_factors": [0.3]}),
    (30, {"scale_factors": [2.65]}),
]
IMAGES: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((4, 4), {"scale_factors": [1.1, 2.0]}),
    ((4, 5), {"scale_factors": [1.1, 1.15]}),
    ((5, 2), {"output_size": [5, 47]}),
    ((6, 3), {"output_size": [2, 3]}),
    ((1, 3), {"output_size": [4, 1]}),
]
CALLS = [
    *((getattr(aten, name).vec, (size,), sizes) for name in ("upsample_nearest1d", "_upsample_nearest_exact1d",
       "upsample_linear1d") for size, sizes in LINES),
    *((getattr(aten, name).vec, size, sizes) for name in ("upsample_nearest2d", "_upsample_nearest_exact2d",
       "upsample_bilinear2d", "upsample_bicubic2d") for size, sizes in IMAGES),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("target", "size", "sizes"), CALLS, ids=str)
def test_the_matrices_make_what_the_interpolation_makes(
    target: Any, size: tuple[int, ...], sizes: dict[str, Any], dtype: torch.dtype
) -> None:
    aligns = any(argument.name == "align_corners" for argument in target._schema.arguments)
    for align in ({"align_corners": False}, {"align_corners": True}) if aligns else ({},):
        options = {"output_size": None, "scale_factors": None, **sizes, **align}
        x = torch.randn(2, 3, *size, dtype=dtype)
        op = Op.eager(target, x, **options)
        entry = find(op)
        assert entry is not None
        (term,) = entry.describe(op).terms

        made: Tensor = term.apply(x, term.weight())

        assert made.shape == op.output.shape
        assert (made - op.output).abs().max() <= 4 * torch.finfo(dtype).eps * x.abs().max() * term.fan_in


def test_a_power_of_two_needs_no_matrix() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    op = Op.eager(aten.upsample_nearest2d.vec, x, output_size=None, scale_factors=[2.0, 4.0])
    entry = find(op)
    assert entry is not None
    (term,) = entry.describe(op).terms

    assert term.weight() == 1.0
    assert torch.equal(term.transpose(op.output, 1.0), 8 * x)
