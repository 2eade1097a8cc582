"""Quantisation written out in primitives is one function; what its steps are calculated from is held constant."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # declares the operators of `quantized_decomposed`
from support.onnx_graphs import in_onnxruntime, model, node
from support.whole import Between, holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, nn

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(3)

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))


def by_range(z: Tensor) -> Tensor:
    """Dynamic, for the whole tensor, with a zero point that is added and taken away."""
    low, high = z.amin().clamp(max=0), z.amax().clamp(min=0)
    step = (high - low) / 255
    zero = torch.round(-low / step)
    return ((torch.round(z / step) + zero).clamp(0, 255) - zero) * step


def turned_round(z: Tensor) -> Tensor:
    """The same, its sums and products in the other order."""
    low, high = z.amin().clamp(max=0), z.amax().clamp(min=0)
    step = (high - low) / 255
    zero = torch.round(-low / step)
    return step * ((zero + torch.round((1 / step) * z)).clamp(0, 255) - zero)


def by_row(z: Tensor) -> Tensor:
    """Dynamic, for each row, symmetric, through int8."""
    step = z.abs().amax(-1, keepdim=True) / 127
    return torch.clamp(torch.round(z * (1 / step)), -127, 127).to(torch.int8).to(z.dtype) * step


def fixed(z: Tensor) -> Tensor:
    """Static, with values beyond the ends."""
    return (torch.clamp(torch.round(z / 0.05) + 3, -16, 15) - 3) * 0.05


QUANTISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "range": by_range,
    "turned round": turned_round,
    "row": by_row,
    "static": fixed,
}


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_quantisation_hands_on_what_its_result_is_multiplied_by(name: str, tmp_path: Path) -> None:
    """Rounding adds a constant; beyond the ends `R_z = R_q`. The stem hands on `x W` of it."""
    quantise = QUANTISERS[name]
    network = in_precision(Between(quantise), torch.float64)
    x = X.double()

    explainer = holds(network, (x,))

    z = network.stem(x)
    q = quantise(z)
    inside = (z > -0.975) & (z < 0.625) if name == "static" else torch.ones_like(z, dtype=torch.bool)
    g = network.head.weight[0] * torch.where(inside, 1.0, q / z)
    found = explainer(x).relevance["x"]
    stabilised, exact = (x * ((g * share) @ network.stem.weight) for share in (z.abs() / (z.abs() + 1e-6), 1.0))
    # Which forms relevance has in between decides whether the stabiliser of the total form is in it.
    assert min(float((found - one).abs().max()) for one in (stabilised, exact)) <= 1e-9
    assert name != "static" or not bool(inside.all())
    survives_files(explainer, (x,), tmp_path)


def test_what_rounding_adds_is_booked() -> None:
    """`g (q − z)`, and nothing of what lies beyond the ends."""
    network = in_precision(Between(fixed), torch.float64)
    x = X.double()

    books = lrp.compile(network, (x,), composite="attnlrp", target=0).audit(x)

    z = network.stem(x)
    inside = (z > -0.975) & (z < 0.625)
    added = (network.head.weight[0] * (fixed(z) - z))[inside].sum()
    assert books.absorbed["quantisation"] == pytest.approx(float(added), abs=1e-9)
    assert abs(books.error) <= 1e-12 * books.magnitude


class Dynamic(nn.Module):
    """As torch's converter writes it: the step is chosen by an operator of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("weight", torch.randint(-127, 128, (5, 4), generator=torch.Generator().manual_seed(1)))
        self.weight = self.weight.to(torch.int8)
        self.register_buffer("scales", torch.rand(5, generator=torch.Generator().manual_seed(2)) * 0.01)
        self.register_buffer("zeros", torch.zeros(5, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        q = torch.ops.quantized_decomposed
        choose = getattr(q, self.kind).tensor
        scale, zero = choose(x, -128, 127, 1e-7, torch.int8)
        whole = q.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
        x = q.dequantize_per_tensor.tensor(whole, scale, zero, -128, 127, torch.int8)
        weight = q.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -128, 127, torch.int8)
        return x @ weight.t()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["choose_qparams", pytest.param("choose_qparams_symmetric", marks=pytest.mark.heavy)])
def test_ranges_that_torch_chooses_take_nothing(kind: str, tmp_path: Path) -> None:
    network = Dynamic(kind).eval()

    explainer = lrp.compile(network, (X,), target=1)

    assert torch.equal(explainer(X).output, network(X))
    weight = network.weight[1].float() * network.scales[1]
    found = explainer(X).relevance["x"] / weight  # what was multiplied: x to the next step
    assert float((found - X).abs().max()) <= 0.51 * float(X.amax() - X.amin()) / 254
    assert any(one.dtype == torch.int8 for one in explainer.module.buffers())
    runs_in_onnxruntime(network, (X,), None, tmp_path)


def test_products_of_whole_numbers_hand_relevance_on() -> None:
    weight = torch.randint(-127, 128, (32, 16), generator=torch.Generator().manual_seed(3)).to(torch.int8)

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            step = x.abs().amax(-1, keepdim=True) / 127
            q = torch.round(x / step).clamp(-127, 127).to(torch.int8)
            return torch._int_mm(q, weight).to(torch.float32) * step * 0.01

    x = torch.randn(24, 32, generator=torch.Generator().manual_seed(4))

    explainer = lrp.compile(Product().eval(), (x,), composite="attnlrp", target=2)

    output = explainer(x).output
    torch.testing.assert_close(output, Product()(x), rtol=1e-6, atol=1e-6)
    step = x.abs().amax(-1, keepdim=True) / 127
    torch.testing.assert_close(explainer(x).relevance["x"], x * weight[:, 2] * 0.01, rtol=1e-6, atol=3e-6)
    books = explainer.audit(x)
    rounded = ((torch.round(x / step) * step - x) * weight[:, 2] * 0.01).sum()
    assert books.absorbed["quantisation"] == pytest.approx(float(rounded), abs=1e-5)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_dynamic_ranges_of_a_file_take_nothing(dynamic: bool) -> None:
    """The relevance of a linear map is `q · w`, whoever chose the step."""
    weight = np.random.default_rng(0).integers(-127, 128, (4, 3)).astype(np.int8)
    first = (
        [node("DynamicQuantizeLinear", "x", "q s z")]
        if dynamic
        else [node("QuantizeLinear", "x s0 z0", "q"), node("Identity", "s0", "s"), node("Identity", "z0", "z")]
    )
    rest = [
        node("MatMulInteger", "q w z", "i"),
        node("Cast", "i", "f", to=1),
        node("Mul", "s t", "u"),
        node("Mul", "f u"),
    ]
    constants = {"w": weight, "t": np.float32(0.01), "s0": np.float32(0.02), "z0": np.uint8(128)}
    proto = model([*first, *rest], {"x": ["batch", 4]}, constants={n: np.asarray(a) for n, a in constants.items()})

    explainer = lrp.compile(proto, (X,), target=1)

    torch.testing.assert_close(explainer(X).output, in_onnxruntime(proto, {"x": X})[0])
    found = explainer(X).relevance["x"] / (torch.tensor(weight[:, 1]).float() * 0.01)
    assert float((found - X).abs().max()) <= 0.51 * max(0.02, float(X.amax() - X.amin()) / 255)
    books = explainer.audit(X)
    assert abs(books.error) <= 1e-9 * books.magnitude


def test_a_box_is_measured_in_the_steps_of_a_quantised_input() -> None:
    """z-box of a layer of whole numbers is that of the layer of what they stand for."""
    weight = np.random.default_rng(0).integers(-127, 128, (5, 3, 3, 3)).astype(np.int8)
    constants = {
        "w": weight,
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "sw": np.float32(0.01),
        "zw": np.int8(0),
        "sy": np.float32(0.05),
    }
    quantised = model(
        [
            node("QuantizeLinear", "x s z", "q"),
            node("QLinearConv", "q s z w sw zw sy z", "c", pads=[1] * 4),
            node("DequantizeLinear", "c sy z", "d"),
            node("GlobalAveragePool", "d", "p"),
            node("Flatten", "p"),
        ],
        {"x": [2, 3, 6, 6]},
        constants={n: np.asarray(a) for n, a in constants.items()},
    )
    module = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    module[0].weight.data = torch.tensor(weight).float() * 0.01
    x = torch.rand(2, 3, 6, 6) * 2 - 1
    composite = lrp.composites.epsilon_gamma_box(low=-2.0, high=2.5)

    found, wanted = (lrp.compile(one, (x,), composite=composite, target=1)(x) for one in (quantised, module))

    a, b = (one.relevance[next(iter(one.relevance))].flatten(1) for one in (found, wanted))
    assert float(torch.cosine_similarity(a, b, 1).min()) > 0.999


@pytest.mark.parametrize("name", QUANTISERS)
def test_the_books_of_a_file_are_those_of_the_explainer(name: str, tmp_path: Path) -> None:
    """What a quantisation is scaled by is in the file: beyond its ends the books would know no better."""
    network = in_precision(Between(QUANTISERS[name]), torch.float64)
    x = X.double()
    explainer = lrp.compile(network, (x,), target=0, composite="attnlrp")
    explainer.save(tmp_path / "m.lrp.pt2")

    books, stored = explainer.audit(x), lrp.load(tmp_path / "m.lrp.pt2").audit(x)

    assert books.absorbed["quantisation"]
    assert str(stored) == str(books)
