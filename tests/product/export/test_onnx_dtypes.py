"""Operands of several dtypes: the file casts them as torch does inside."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(12)

HALF, FLOAT, WHOLE = torch.float16, torch.float32, torch.int64
CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "power": lambda a, b: (a + 1) ** b,
    "power of the other": lambda a, b: (b + 1) ** a,
    "stack": lambda a, b: torch.stack([a, b.expand_as(a)]).sum(0) * a,
    "concatenation": lambda a, b: torch.cat([a, b.expand_as(a)], -1)[..., 2:6],
    "sign of": lambda a, b: torch.copysign(a, b - 1.5),
    "product": lambda a, b: a * b + 0.3,
    "quotient": lambda a, b: a / (b + 1),
    "where": lambda a, b: torch.where(b > 1, a, b * a),
    "maximum": lambda a, b: torch.maximum(a, b) * a,
    "bounds": lambda a, b: torch.clamp(a * 2, max=b) * a,
    "remainder": lambda a, b: torch.remainder(a * 3, b + 1) * a,
    "difference": lambda a, b: torch.sub(a, b, alpha=2),
}


class Pair(nn.Module):
    """A function of the input, in one dtype, and of a constant of another."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, other: torch.dtype) -> None:
        super().__init__()
        self.function, self.dtype = function, dtype
        self.register_buffer("other", torch.tensor([1.0, 2.0, 2.0, 1.0]).to(other))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x.to(self.dtype), self.get_buffer("other"))
        return result


@pytest.mark.sampled(48)
@pytest.mark.parametrize(
    ("dtype", "other"),
    [(HALF, FLOAT), (FLOAT, HALF), (HALF, WHOLE), (FLOAT, WHOLE), (FLOAT, torch.float64)],
    ids=lambda dtype: str(dtype)[6:],
)
@pytest.mark.parametrize("name", CASES)
def test_a_file_casts_what_torch_casts(name: str, dtype: torch.dtype, other: torch.dtype, tmp_path: Path) -> None:
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).half().float() + 0.25
    model = Pair(CASES[name], dtype, other).eval()
    expected = model(x)
    lrp.compile(model, (x,), target=1).to_onnx(tmp_path / "m.lrp.onnx")

    found, relevance = onnxruntime.InferenceSession(tmp_path / "m.lrp.onnx").run(None, {"x": x.numpy()})

    assert found.dtype.name == str(expected.dtype)[6:]
    exact = Pair(CASES[name], torch.float64, torch.float64).eval()(x.double())
    room = (4e-3 if HALF in (dtype, other) else 1e-5) * float(exact.abs().max())
    np.testing.assert_allclose(found, exact.numpy(), rtol=0, atol=room)
    assert np.isfinite(relevance).all()
