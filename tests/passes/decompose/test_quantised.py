"""Quantisers are written out as roundings, to the bit, and relevance passes them as if they did not round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # declares the operators of `quantized_decomposed`
from support.whole import holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.decompose.quantised import write_out_quantised

pytestmark = pytest.mark.sampled(4)

q = torch.ops.quantized_decomposed
X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)) * 2
SCALES, ZEROS = torch.tensor([0.05, 0.1, 0.02, 0.3, 0.07]), torch.tensor([0, 3, -2, 0, 5])


class Quantiser(nn.Module):
    """A function of x and of its parameters: numbers, or constants, which stay in single precision."""

    def __init__(self, function: Callable[..., Tensor], scale: Any = 0.05, zero: Any = 3) -> None:
        super().__init__()
        self.function, self.scale, self.zero = function, scale, zero

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.scale, self.zero)


def per_tensor(x: Tensor, scale: Any, zero: Any) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, -20, 20)


def per_channel(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return torch.fake_quantize_per_channel_affine(x, scale, zero, 1, -20, 20)


def stored_per_tensor(x: Tensor, scale: Any, zero: Any) -> Tensor:
    whole = q.quantize_per_tensor(x.float(), scale, zero, -20, 20, torch.int8)
    return q.dequantize_per_tensor(whole, scale, zero, -20, 20, torch.int8)


def stored_per_channel(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    whole = q.quantize_per_channel(x.float(), scale, zero, 1, -20, 20, torch.int8)
    return q.dequantize_per_channel(whole, scale, zero, 1, -20, 20, torch.int8)


QUANTISERS = {
    "per tensor": Quantiser(per_tensor, 0.125),  # whose multiples are exact in single precision
    "per tensor, of a scale that is rounded": Quantiser(per_tensor),
    "per tensor, parameters in tensors": Quantiser(per_tensor, torch.tensor(0.25), torch.tensor(-4, dtype=torch.int32)),
    "per channel": Quantiser(per_channel, SCALES, ZEROS.to(torch.int32)),
    "per channel, symmetric": Quantiser(per_channel, SCALES, torch.zeros(5, dtype=torch.int32)),
    "stored, per tensor": Quantiser(stored_per_tensor),
    "stored, parameters in tensors": Quantiser(stored_per_tensor, torch.tensor(0.07), torch.tensor(2)),
    "stored, per channel": Quantiser(stored_per_channel, SCALES, ZEROS),
}


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", QUANTISERS)
def test_what_is_written_out_is_the_same_to_the_bit(name: str, graph_of: Callable, targets: Callable) -> None:
    x = torch.cat([X, (torch.arange(-60, 60) * 0.025).unsqueeze(1).expand(-1, 5)])  # halves among them
    before = graph_of(QUANTISERS[name], x)

    result = write_out_quantised(before)

    assert result.modified
    assert not any("quant" in str(target) for target in targets(before))
    assert torch.equal(result.graph_module(x)[0], QUANTISERS[name](x))


def test_what_is_stored_as_whole_numbers_stays_whole(graph_of: Callable) -> None:
    def whole(x: Tensor) -> Tensor:
        return q.quantize_per_tensor(x, 0.05, 3, -20, 20, torch.int8)

    (result,) = write_out_quantised(graph_of(whole, X)).graph_module(X)

    assert result.dtype == torch.int8
    assert torch.equal(result, whole(X))


class Classifier(nn.Module):
    def __init__(self, quantiser: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.quantiser = quantiser
        self.stem, self.head = nn.Linear(5, 5, bias=False), nn.Linear(5, 3, bias=False)
        with torch.no_grad():
            for layer in (self.stem, self.head):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.quantiser(self.stem(x)).to(x.dtype))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["per tensor", "per tensor, parameters in tensors", "per channel, symmetric"])
def test_relevance_passes_what_is_rounded_and_by_value_what_is_cut_off(name: str, tmp_path: Path) -> None:
    """`g_h = g` between the ends, `R_h = R_y` beyond them; a linear map's operands get `x W` of it."""
    model = in_precision(Classifier(QUANTISERS[name]), torch.float64)
    x = X[:8].double()

    explainer = holds(model, (x,))

    h = model.stem(x)
    single, zero = (torch.as_tensor(one) for one in (model.quantiser.scale, model.quantiser.zero))
    scale, kept = single.double(), single.reciprocal().double() * single.double()  # torch's kernels have 1/s in single
    inside = ((h / scale + zero) > -20.5) & ((h / scale + zero) < 20.5)
    slope = torch.where(inside, kept, model.quantiser(h) / h)
    wanted = x * ((slope * model.head.weight[0]) @ model.stem.weight)
    assert not bool(inside.all())
    torch.testing.assert_close(explainer(x).relevance["x"], wanted, rtol=1e-9, atol=1e-12)
    assert explainer(x).relevance["x"].abs().sum() > 0
    survives_files(explainer, (x,), tmp_path)
    runs_in_onnxruntime(model, (x,), None, tmp_path)


@pytest.mark.slow
def test_a_classifier_converted_to_stored_numbers_is_explained(tmp_path: Path) -> None:
    """Weights kept as whole numbers, activations quantised in front of a layer: as converters write it."""

    class Converted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.randint(-20, 20, (3, 5), dtype=torch.int8))
            self.register_buffer("scales", torch.rand(3) * 0.1)
            self.register_buffer("zeros", torch.zeros(3, dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            x = stored_per_tensor(x, 0.05, 3)
            return x @ q.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -20, 20, torch.int8).t()

    model, x = Converted().eval(), X[:4]
    explainer = lrp.compile(model, (x,), composite="attnlrp", target=1)

    assert torch.equal(explainer(x).output, model(x))
    weight = model.weight[1].double() * model.scales[1].double()
    beyond = (x / 0.05 + 3).abs() > 20.5
    wanted = torch.where(beyond, stored_per_tensor(x, 0.05, 3), x).double() * weight
    torch.testing.assert_close(explainer(x).relevance["x"].double(), wanted, rtol=1e-5, atol=1e-6)
    assert abs(explainer.audit(x).error) <= 1e-9
    runs_in_onnxruntime(model, (x,), None, tmp_path)
