"""Sizes of the call from which a runtime makes sizes: rounded as it rounds them, at sizes that nothing was made for."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.onnx_graphs import in_onnxruntime, model, node

import lrp_compiler as lrp
from lrp_compiler.errors import LrpWarning

SUM = lrp.Target(0, position="sum")
SIZES = ((8, 9), (7, 6), (10, 11), (12, 5), (20, 30))


def check(proto: onnx.ModelProto, sizes: tuple[tuple[int, int], ...] = SIZES) -> None:
    explainer = lrp.compile(proto, target=SUM, composite="epsilon")
    for size in sizes:
        x = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0))
        (want,) = in_onnxruntime(proto, {"x": x})
        torch.testing.assert_close(explainer(x).output, want)


def resized(scales: tuple[float, float], **attributes: Any) -> onnx.ModelProto:
    constants = {"s": np.array([1, 1, *scales], np.float32)}
    return model([node("Resize", "x _ s", **attributes)], {"x": ["batch", 4, "height", "width"]}, constants=constants)


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


@pytest.mark.slow
@pytest.mark.parametrize("attributes", [NEAREST, LINEAR])
def test_products_with_factors_are_rounded_in_single_precision(attributes: dict[str, Any]) -> None:
    """In double precision 20 · 0.7 is below 14, since float32 has no 0.7."""
    check(resized((0.7, 0.3), **attributes), ((20, 30), (90, 110), (10, 13)))


def test_a_factor_of_which_whole_numbers_cannot_say_the_size_is_told() -> None:
    with pytest.warns(LrpWarning, match="Resize by 1.3 makes another number of elements of 90"):
        check(resized((1.3, 1.5), **NEAREST), ((20, 30), (89, 10)))
    x = torch.zeros(1, 4, 90, 8)

    assert in_onnxruntime(resized((1.3, 1.5), **NEAREST), {"x": x})[0].shape[2] == 116


WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 1, 0, 1], "dilations": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]},
]


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize("attributes", WINDOWS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_a_window_that_starts_behind_the_map_is_none(op: str, attributes: dict[str, Any]) -> None:
    check(model([node(op, "x", ceil_mode=1, **attributes)], {"x": ["batch", 4, "height", "width"]}, opset=22))


def test_what_is_added_counts_where_it_is_to() -> None:
    attributes = {"ceil_mode": 1, "count_include_pad": 1, **WINDOWS[0]}
    check(model([node("AveragePool", "x", **attributes)], {"x": ["batch", 4, "height", "width"]}, opset=22))
