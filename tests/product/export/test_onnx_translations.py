"""The project's own translations to ONNX keep the digits that torch keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.errors import LrpError
from lrp_compiler.export.onnx_translations import TRANSLATIONS
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(4)

FUNCTIONS = {"log1p": torch.log1p, "expm1": torch.expm1, "logsigmoid": torch.nn.functional.logsigmoid}
SMALL = torch.tensor([[1e-7, -3e-6, 2.5e-5, -4e-4], [1e-3, 0.03, -0.2, 0.0], [-0.9, 1.5, 40.0, 3e7]])


class Function(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = FUNCTIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_small_numbers_keep_their_digits(name: str, tmp_path: Path) -> None:
    x = SMALL if name == "log1p" else SMALL.clamp(max=40)
    path = tmp_path / "function.onnx"
    lrp.compile(Function(name).eval(), (x,), target=0).to_onnx(path)

    explanation = OnnxExplainer(path)(x.numpy())

    exact = FUNCTIONS[name](x.double())
    torch.testing.assert_close(torch.tensor(explanation.output).double(), exact, rtol=2e-6, atol=0)


def test_the_limits_stay(tmp_path: Path) -> None:
    x = torch.tensor([[-1.0, float("inf"), 3e38, -100.0]])
    path = tmp_path / "function.onnx"
    for name in FUNCTIONS:
        values = x[:, [0, 3, 0, 3]] if name == "expm1" else x
        lrp.compile(Function(name).eval(), (torch.ones(1, 4),), target=0).to_onnx(path)
        found = torch.tensor(OnnxExplainer(path)(values.numpy()).output)
        torch.testing.assert_close(found, FUNCTIONS[name](values), rtol=2e-6, atol=0, equal_nan=True)


def test_the_largest_and_smallest_of_all(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.amax() + x.amin() + x.amax((-1, 0), keepdim=True)

    x = torch.tensor([[0.5, -2.0, 1.5], [3.0, 0.25, -0.75]])
    lrp.compile(Model().eval(), (x,), target=0).to_onnx(tmp_path / "model.onnx")

    explanation = OnnxExplainer(tmp_path / "model.onnx")(x.numpy())

    torch.testing.assert_close(torch.tensor(explanation.output), Model()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_that_torch_writes_out_as_tensors(dtype: torch.dtype, tmp_path: Path) -> None:
    """x · log 3 and 3 · log x; a NaN stays one."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.xlogy(x, 3.0) + torch.xlogy(3, x)

    x = torch.tensor([[0.5, 2.0, 1.5], [3.0, 0.25, torch.nan]], dtype=dtype)
    lrp.compile(Model().eval(), (x,), target=0, composite="epsilon").to_onnx(tmp_path / "model.onnx")

    found = torch.as_tensor(OnnxExplainer(tmp_path / "model.onnx")(x.numpy()).output)

    tolerance = 1e-6 if dtype is torch.float32 else 1e-14
    torch.testing.assert_close(found, x * np.log(3) + 3 * x.log(), rtol=tolerance, atol=0, equal_nan=True)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("name", ["bucketize", "searchsorted", "searchsorted by rows"])
def test_places_among_sorted_numbers(name: str, right: bool, tmp_path: Path) -> None:
    """Elements on a border and beyond the last one."""
    x = torch.tensor([[0.5, -2.0, 1.5, 3.0], [0.25, 0.5, 7.0, -0.75]])
    borders = torch.tensor([0.25, 0.5, 3.0])

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if name == "bucketize":
                found = torch.bucketize(x, borders, right=right)
            else:
                of_rows = borders if name == "searchsorted" else torch.stack([borders, borders - 1])
                found = torch.searchsorted(of_rows, x, right=right)
            return x * (1 + found)

    lrp.compile(Model().eval(), (x,), target=0).to_onnx(tmp_path / "model.onnx")

    explanation = OnnxExplainer(tmp_path / "model.onnx")(x.numpy())

    torch.testing.assert_close(torch.tensor(explanation.output), Model()(x))


@pytest.mark.sampled(16)
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("dims", "options"),
    [
        (1, {"kernel_size": 3, "output_padding": 1, "dilation": 2}),
        (1, {"kernel_size": 3, "output_padding": 1, "dilation": 2, "padding": 1, "bias": False}),
        (2, {"kernel_size": (2, 3), "stride": 2, "padding": (1, 2), "output_padding": (2, 1), "dilation": (3, 2)}),
        (3, {"kernel_size": 2, "output_padding": 1, "dilation": 2}),
    ],
)
def test_a_transposed_convolution_made_longer_by_a_step(
    dims: int, options: dict[str, Any], is_open: bool, tmp_path: Path
) -> None:
    """torch takes an output padding below the dilation, onnxruntime one below the stride."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = getattr(nn, f"ConvTranspose{dims}d")(2, 3, **options)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu().flatten(2).mean(2)

    x = torch.randn(2, 2, *[5] * dims)
    shapes = ({2: torch.export.Dim("length", min=3, max=20)},) if is_open else None
    explainer = lrp.compile(Model().eval(), (x,), composite="epsilon-plus", target=0, dynamic_shapes=shapes)
    explainer.to_onnx(tmp_path / "model.onnx")
    fresh = torch.randn(2, 2, 7 if is_open else 5, *[5] * (dims - 1))

    there, here = OnnxExplainer(tmp_path / "model.onnx")(fresh.numpy()), explainer(fresh)

    torch.testing.assert_close(torch.tensor(there.output), Model().eval()(fresh).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(there.relevance["x"]), here.relevance["x"], rtol=5e-6, atol=1e-7)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize("kind", ["cummax", "cummin"])
def test_running_extremes_of_any_length(kind: str, dim: int, dtype: torch.dtype, tmp_path: Path) -> None:
    """With ties, of which the last one counts; relevance by hand: each value's goes to the place where it stood."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            values, places = getattr(x, kind)(dim)
            return values.flatten(1).sum(1, keepdim=True), places

    def drawn(length: int) -> Tensor:
        generator = torch.Generator().manual_seed(length)
        return torch.randint(-3, 4, (2, length, 3) if dim == 1 else (2, 3, length), generator=generator).to(dtype)

    model, open_dim = Model().eval(), 1 if dim == 1 else 2
    shapes = ({open_dim: torch.export.Dim("length", min=1, max=4096)},)
    path = tmp_path / "model.onnx"
    options: dict[str, Any] = {"target": 0, "composite": lrp.composites.epsilon(0.0), "dynamic_shapes": shapes}
    lrp.compile(model, (drawn(4),), **options).to_onnx(path)

    for length in (1, 2, 3, 8, 13, 1000):
        x = drawn(length)
        there = OnnxExplainer(path)(x.numpy())
        values, places = getattr(x, kind)(dim)
        found, stood = there.output["output.0"], there.output["output.1"]
        assert np.array_equal(stood, places.numpy())
        assert np.array_equal(found, model(x)[0].numpy())
        wanted = torch.zeros_like(x, dtype=torch.float64).scatter_add(dim, places, values.double())
        rounding = 4 * torch.finfo(dtype).eps
        np.testing.assert_allclose(there.relevance["x"].astype(np.float64), wanted.numpy(), rtol=rounding, atol=0)


def test_a_running_extreme_of_one_number_and_of_a_known_length(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (*x.cummax(0), *x[0, 0].cummin(0), *x.cummin(1))

    x = torch.tensor([[0.5, -2.0, 1.5], [0.5, 3.0, -0.75], [0.0, -2.0, 1.5]])
    path = tmp_path / "model.onnx"
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "custom_translation_table": dict(TRANSLATIONS)}
    torch.onnx.export(Model().eval(), (x,), path, **options)
    session = onnxruntime.InferenceSession(path)

    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})

    for one, wanted in zip(found, Model()(x), strict=True):
        torch.testing.assert_close(torch.as_tensor(one), wanted)


def test_an_operation_that_onnx_has_not_is_named(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().lgamma()

    with pytest.raises(LrpError, match=r"no translation of prims\.lgamma\.default; save it as \.pt2"):
        lrp.compile(Model().eval(), (torch.randn(2, 3),), target=0).to_onnx(tmp_path / "model.onnx")

    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_softmax_of_rows_that_are_masked_whole(dtype: torch.dtype, tmp_path: Path) -> None:
    safe_softmax = torch.ops.aten._safe_softmax.default

    class Weights(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return safe_softmax(x, -1), safe_softmax(x, 1), safe_softmax(x.float(), 2, torch.float64)

    lowest = torch.finfo(dtype).min
    x = torch.randn(2, 6, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[0, 1] = -torch.inf
    x[0, 2, 1:] = -torch.inf
    x[0, 3] = lowest
    x[0, 4, ::2], x[0, 4, 1::2] = lowest, -torch.inf
    x[1, :, 3] = -torch.inf
    x[1, 5, 0] = torch.nan
    path = tmp_path / "weights.onnx"
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "custom_translation_table": dict(TRANSLATIONS)}
    torch.onnx.export(Weights(), (x,), path, **options)
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for one, wanted in zip(found, Weights()(x), strict=True):
        torch.testing.assert_close(torch.as_tensor(one), wanted, rtol=1e-6, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("dims", [[1], [0, 1]])
def test_a_product_as_torch_writes_it_out(dims: list[int], tmp_path: Path) -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.prims.prod.default(x, dims)

    x = torch.randn(3, 4)
    path = tmp_path / "product.onnx"
    torch.onnx.export(
        Product().eval(), (x,), path, dynamo=True, custom_translation_table=dict(TRANSLATIONS), verbose=False
    )

    session = onnxruntime.InferenceSession(path)

    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    wanted = x.prod() if len(dims) == 2 else x.prod(1)
    torch.testing.assert_close(torch.tensor(found), wanted)
