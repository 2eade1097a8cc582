"""What was read is compared with onnxruntime; the first node that differs is named."""

import numpy as np
import onnx
import pytest
import torch
from support.onnx_graphs import model, node

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError, LrpWarning
from lrp_compiler.onnx_in.registry import TABLE, Entry, onnx_op


@pytest.fixture
def _wrong_hard_swish(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that this library has wrong."""
    monkeypatch.setitem(TABLE, ("", "HardSwish"), Entry())

    @onnx_op("HardSwish")
    def wrong(x: torch.Tensor) -> torch.Tensor:
        return x * 0.5


@pytest.mark.usefixtures("_wrong_hard_swish")
def test_the_first_node_that_differs_is_named() -> None:
    proto = model(
        [
            node("MatMul", "x w", "a", "dense"),
            node("HardSwish", "a", "b", "curve"),
            node("Relu", "b", "c", "gate"),
            node("MatMul", "c v", name="head"),
        ],
        {"x": ["batch", 4]},
        constants={"w": np.eye(4, dtype=np.float32), "v": np.ones((4, 3), np.float32)},
    )

    with pytest.raises(CaptureError, match=r"Output 'y' differs .* first at Node 'curve' \(HardSwish\)\."):
        lrp.compile(proto)


def test_what_onnxruntime_does_not_run_is_said() -> None:
    proto = model(
        [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "p"), node("Flatten", "p")],
        {"x": ["batch", 2, 4, 4]},
        constants={"w": np.ones((3, 2, 3, 3), np.float64)},
        dtypes={"x": onnx.TensorProto.DOUBLE, "y": onnx.TensorProto.DOUBLE},
    )

    with pytest.warns(LrpWarning, match="was not compared with onnxruntime"):
        explainer = lrp.compile(proto)

    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(
        explainer(x).output[:, 0], x[:, :, :, :].unfold(2, 3, 1).unfold(3, 3, 1).sum((1, 4, 5)).mean((1, 2))
    )
