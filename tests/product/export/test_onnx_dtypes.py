"""Operands of several dtypes: the file casts them as torch does inside, and numbers are as exact as what they meet."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

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


class ChosenMask(nn.Module):
    """One of two masks, by a third."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.where(x > 0.5, x > 0.75, x < 0.25)


def test_truth_values_are_chosen_where_the_runtime_has_no_kernel_for_them(tmp_path: Path) -> None:
    x = torch.linspace(0, 1, 12).reshape(3, 4)
    explainer = lrp.compile(ChosenMask().eval(), (x,), target=1)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    found, relevance = onnxruntime.InferenceSession(tmp_path / "m.lrp.onnx").run(None, {"x": x.numpy()})

    np.testing.assert_array_equal(found, ChosenMask()(x).numpy())
    np.testing.assert_array_equal(relevance, explainer(x).relevance["x"].numpy())


# ---- Numbers of Python beside float64 ----

NEAR = [number + off for number in (0.1, 0.3, 0.7) for off in (1e-10, -1e-10)]
"""Where a number that float32 has rounded would stand on the other side."""
WEIGHT = torch.linspace(0.5, 1.3, 6, dtype=torch.float64)
NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "product, sum": lambda x: (x * 0.2 + 0.1 - 0.3) / 0.7,
    "of the other": lambda x: 0.7 - 0.3 / (x.abs() + 0.9),
    "alpha": lambda x: torch.sub(torch.add(x, x.sin(), alpha=0.3), x.cos(), alpha=0.7),
    "addmm": lambda x: torch.addmm(x, x, torch.eye(6, dtype=x.dtype), beta=0.3, alpha=0.7),
    "powers": lambda x: (x.abs() + 0.1) ** 2.3 + 2.3**x,
    "where": lambda x: torch.where(x > 0.1, x, 0.3) + torch.where(x <= 0.7, 0.2, x),
    "masks": lambda x: x.masked_fill(x > 0.1, 0.7) * (x >= 0.3) + x * (x < 0.7),
    "bounds": lambda x: x.clamp(-0.3, 0.7) + x.clamp_min(0.1) + functional.hardtanh(x, -0.3, 0.7),
    "filled": lambda x: x * torch.full((6,), 0.3, dtype=x.dtype) + torch.full_like(x, 0.1) + x.new_full((6,), 0.7),
    "ranges": lambda x: x * torch.arange(0.1, 0.7, 0.1, dtype=x.dtype) + torch.linspace(0.1, 0.7, 6, dtype=x.dtype),
    "thresholds": lambda x: functional.threshold(x, 0.1, 0.7) + functional.hardshrink(x, 0.3),
    "slopes": lambda x: functional.leaky_relu(x, 0.01) + functional.elu(x, 0.3) + functional.celu(x, 0.3),
    "soft": lambda x: functional.softplus(x, 1.3, 1.9) + functional.selu(x) + functional.mish(x),
    "hard": lambda x: functional.hardswish(x) + functional.hardsigmoid(x),
    "tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "logarithms": lambda x: (x.abs() + 0.1).log2() + (x.abs() + 0.1).log10(),
    "remainders": lambda x: torch.remainder(x, 0.3) + torch.fmod(x, 0.7),
    "between": lambda x: torch.lerp(x, x.sin(), 0.3) + torch.addcmul(x, x, x.sin(), value=0.3),
    "layer norm": lambda x: functional.layer_norm(x, (6,), WEIGHT, WEIGHT, 0.1),
    "group norm": lambda x: functional.group_norm(x, 2, WEIGHT, WEIGHT, 0.1),
    "batch norm": lambda x: functional.batch_norm(x.sin(), WEIGHT, WEIGHT, WEIGHT, WEIGHT, eps=0.1),
    "root mean square": lambda x: functional.rms_norm(x, (6,), WEIGHT, 0.1),
    "in float32 by itself": lambda x: (x.float() * 0.3).double() + x * torch.full((), 0.1).double(),
}


class Numbers(nn.Module):
    """Every function's values, and their sum: what is explained."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [function(x) for function in NUMBERS.values()]
        return (torch.stack(values).sum((0, 2))[:, None], *values)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The model calculates in float32")
def test_numbers_beside_float64_keep_their_digits(tmp_path: Path) -> None:
    """In output and relevance, which sums to what the output differs by: float32's numbers would be off by 10⁻⁹."""
    x = torch.tensor([[*NEAR[:4], 0.5, 1.7], [*NEAR[4:], -0.2, -1.3, 0.33, 2.1]], dtype=torch.float64)
    model = Numbers().eval()
    explainer = lrp.compile(model, (x,), composite="reference", target=lrp.Target(0, output=0))
    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    session = onnxruntime.InferenceSession(tmp_path / "m.lrp.onnx")
    there = torch.full_like(x, 0.4)
    *outputs, relevance = session.run(None, {"x": x.numpy(), "reference.x": there.numpy()})

    for name, found, wanted in zip(["sum", *NUMBERS], outputs, model(x), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-14 * float(wanted.abs().max()), err_msg=name)
    # A value that is rounded hands on what it differs by, whatever rounding made of that.
    rounded, hands_on = NUMBERS["in float32 by itself"], float(torch.tensor(0.3)) + float(torch.tensor(0.1))
    change = (model(x)[0] - model(there)[0])[:, 0] + ((x - there) * hands_on - rounded(x) + rounded(there)).sum(1)
    np.testing.assert_allclose(relevance.sum(1), change.numpy(), rtol=0, atol=1e-12)


def test_a_file_of_float32_holds_no_number_of_float64(tmp_path: Path) -> None:
    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.elu(x * 0.2, 0.3).clamp(max=0.7)

    lrp.compile(Single().eval(), (torch.randn(2, 3),), target=0).to_onnx(tmp_path / "m.lrp.onnx")

    graph = onnx.load(tmp_path / "m.lrp.onnx").graph
    assert onnx.TensorProto.DOUBLE not in {tensor.data_type for tensor in graph.initializer}
    assert "Elu" in {node.op_type for node in graph.node}
