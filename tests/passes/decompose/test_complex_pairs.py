"""Complex numbers as pairs of real ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.whole import holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.errors import UnsupportedOpError
from lrp_compiler.passes.decompose.complex_pairs import pair_complex
from lrp_compiler.passes.graph.simplify import simplify

pytestmark = pytest.mark.sampled(12)

X = torch.randn(2, 3, 8, dtype=torch.float64)
TURN = torch.polar(torch.ones(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64))


def rotary(x: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * TURN
    return torch.view_as_real(turned).flatten(-2)


def rotary_from_angles(x: Tensor) -> Tensor:
    angles = torch.outer(torch.arange(3.0), 1.0 / torch.arange(1.0, 5.0)).double()
    turn = torch.polar(torch.ones_like(angles), angles)[None]
    return torch.view_as_real(torch.view_as_complex(x.reshape(2, 3, 4, 2)) * turn).reshape(2, 3, 8)


def arithmetic(x: Tensor) -> Tensor:
    a, b = torch.view_as_complex(x.unflatten(-1, (-1, 2))).chunk(2, -1)
    return torch.view_as_real((a + 2 * b - a.conj() / (b + 3)) * x[..., :2] + x[..., 2:4])


def shapes(x: Tensor) -> Tensor:
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    z = torch.cat([z.transpose(-1, -2), z[:, :, :3].permute(0, -1, 1)], -2)
    z = z.unsqueeze(-1).expand(2, 7, 3, 2).reshape(2, -1).unflatten(-1, (-1, 6)).select(-1, 2).flip(-1).roll(1, -1)
    return torch.view_as_real(z.sum(0, keepdim=True))


def parts(x: Tensor) -> Tensor:
    z = torch.complex(x[..., :4], x[..., 4:])
    return z.real + 2 * z.imag + z.abs()


TRANSFORMS = {
    "rfft": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "rfft, odd, scaled": lambda x: torch.view_as_real(torch.fft.rfft(x[..., :7], norm="ortho")),
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2),
    "irfft, odd": lambda x: torch.fft.irfft(torch.fft.rfft(x[..., :7]), n=7),
    "rfft2": lambda x: torch.view_as_real(torch.fft.rfft2(x)),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="forward"), s=(3, 8), norm="forward"),
    "fft": lambda x: torch.fft.fft(x, dim=1).real,
    "fft of both": lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real,
    "ifft": lambda x: torch.fft.ifft(torch.complex(x, x.flip(-1))).imag,
}


@pytest.mark.sampled(48)
@pytest.mark.parametrize(
    "function",
    [rotary, rotary_from_angles, arithmetic, shapes, parts, *(pytest.param(f, id=n) for n, f in TRANSFORMS.items())],
)
def test_pairs_compute_the_same(function: Callable, graph_of: Callable) -> None:
    before = simplify(graph_of(function, X)).graph_module

    result = pair_complex(before)

    assert result.modified
    values = [node.meta.get("val") for node in result.graph_module.graph.nodes]
    assert not [value for value in values if isinstance(value, Tensor) and value.is_complex()]
    torch.testing.assert_close(result.graph_module(X)[0], function(X), rtol=1e-12, atol=1e-12)


def test_what_has_no_pairs_stays_alone(graph_of: Callable, targets: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        return (torch.linalg.eigvals(x[:, :, :3]) * 2).abs() + torch.fft.fft(x).real[:, 0, :3]

    result = pair_complex(simplify(graph_of(function, X)).graph_module)

    assert not [name for name in targets(result.graph_module) if name.startswith(("_fft", "abs"))]
    ((name, reason),) = result.declined
    assert name.startswith("linalg_eig")
    assert "aten.linalg_eig.default" in reason
    torch.testing.assert_close(result.graph_module(X)[0], function(X))


def test_the_op_that_has_no_pairs_is_the_one_that_is_named() -> None:
    function = Applied(lambda x: torch.fft.irfft(torch.fft.fft(torch.linalg.eigvals(torch.fft.rfft(x)[..., :3]))))

    with pytest.raises(UnsupportedOpError) as raised:
        lrp.compile(function, (X,), composite="attnlrp")

    assert {node.op for node in raised.value.nodes} == {"aten.linalg_eig.default"}


def test_relevance_goes_through_a_rotation() -> None:
    class Turned(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return rotary(x).sum(1)

    explainer = lrp.compile(Turned().eval(), (X,), composite="attnlrp", target=3)

    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rotary(leaf).sum(1)[:, 3].sum(), leaf)
    torch.testing.assert_close(explainer(X).relevance["x"], X * gradient)


class Applied(nn.Module):
    """A function of x and of complex parameters, summed up to two logits."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(weights)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        made = self.function(x, *self.weights).flatten(1)
        return torch.stack([made.sum(1), (made * (torch.arange(made.shape[1]) - 3.5)).sum(1)], 1)


def complexes(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(sum(shape)))


W33, W35, W335 = complexes(5, 5), complexes(3, 5), complexes(3, 3, 3)
K, K2, BIAS = complexes(2, 3, 3), complexes(4, 1, 2, 2), complexes(3)
SPECTRUM = torch.fft.rfft(X)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "angle": lambda z: z.angle(),
    "exp": lambda z: torch.view_as_real((z * 0.3).exp()),
    "log": lambda z: torch.view_as_real((z + 0.1).log()),
    "square": lambda z: torch.view_as_real(z**2 + z.square()),
    "cube": lambda z: torch.view_as_real(z**3),
    "power": lambda z: torch.view_as_real((z + 0.1) ** 0.3),
    "square root": lambda z: torch.view_as_real((z + 0.1j).sqrt()),
    "reciprocal": lambda z: torch.view_as_real((z + 3j).reciprocal() + 2 / (z + 3j)),
    "sgn": lambda z: torch.view_as_real(torch.sgn(z)),
    "sines": lambda z: torch.view_as_real(torch.sin(z * 0.3) + torch.cos(z * 0.3)),
    "hyperbolic": lambda z: torch.view_as_real(torch.sinh(z * 0.3) - torch.cosh(z * 0.3) + torch.tanh(z * 0.3)),
    "sigmoid": lambda z: torch.view_as_real(torch.sigmoid(z * 0.3)),
    "complex numbers": lambda z: torch.view_as_real((z * 1j + (1 - 2j)) / 3j - 1j + (2 - z)),
    "real part by cast": lambda z: z.real.to(torch.complex128).imag + z.real,
    "matmul": lambda z: torch.view_as_real(z @ W33 + torch.matmul(W33[0, :3], z).unsqueeze(1)),
    "bmm": lambda z: torch.view_as_real(torch.bmm(z, z.transpose(1, 2).conj())),
    "einsum": lambda z: torch.view_as_real(torch.einsum("bim,iom->bom", z[..., :3], W335)),
    "linear": lambda z: torch.view_as_real(functional.linear(z, W35, BIAS) + functional.linear(z, W35)),
    "convolution": lambda z: torch.view_as_real(functional.conv1d(z, K, BIAS[:2], padding=1)),
    "convolution in 2-D": lambda z: torch.view_as_real(functional.conv2d(z.unsqueeze(1), K2, None, (1, 2))),
    "where": lambda z: torch.view_as_real(torch.where(z.abs() > 1, z, 1j) + torch.where(z.real > 0, z.real, z)),
    "masked": lambda z: torch.view_as_real(z.masked_fill(z.real > 0, 2 + 1j)),
    "padded": lambda z: torch.view_as_real(functional.pad(z, (1, 2), value=0.5)),
    "cumsum": lambda z: torch.view_as_real(z.cumsum(1)),
    "mean of all": lambda z: torch.view_as_real(z * z.mean() + z.sum()),
    "norm": lambda z: torch.linalg.vector_norm(z, dim=-1),
    "triangles": lambda z: torch.view_as_real(z.tril() + 2 * z.triu(1) + z.diagonal(0, 1, 2).unsqueeze(-1)),
    "repeated": lambda z: torch.view_as_real(z.repeat(1, 2, 1) + z.mean((1, 2), keepdim=True)),
    "gathered": lambda z: torch.view_as_real(z.gather(-1, torch.tensor([[[2, 0]]]).expand(2, 3, 2))),
    "cat with real ones": lambda z: torch.view_as_real(torch.cat([z, z.real.to(z.dtype), torch.ones_like(z)], -1)),
}


@pytest.mark.sampled(48)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_pairs_compute_the_same_and_the_books_balance(name: str) -> None:
    function = Applied(lambda x: FUNCTIONS[name](torch.fft.rfft(x)))

    assert holds(function, (X,))(X).relevance["x"].any()


def spectral(x: Tensor, weight: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x)
    out = torch.zeros_like(spectrum)
    out[..., :3] = torch.einsum("bim,iom->bom", spectrum[..., :3], weight)
    return torch.fft.irfft(out, n=8)


def spectral_2d(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(x.unflatten(-1, (4, 2)))
    out = torch.zeros(x.shape[0], 3, 4, 2, dtype=spectrum.dtype)
    out[:, :, :2, :2] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :2, :2], low)
    out[:, :, -2:, :2] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -2:, :2], high)
    return torch.fft.irfft2(out, s=(4, 2))


def state_space(x: Tensor, decay: Tensor, read: Tensor) -> Tensor:
    kernel = 2 * (read.unsqueeze(-1) * torch.exp(decay.unsqueeze(-1) * torch.arange(8))).sum(1).real
    return torch.fft.irfft(torch.fft.rfft(x, n=16) * torch.fft.rfft(kernel, n=16), n=16)[..., :8]


LAYERS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "modes multiplied": (spectral, (complexes(3, 3, 3),)),
    "modes multiplied in 2-D": (spectral_2d, (complexes(3, 3, 2, 2), complexes(3, 3, 2, 2))),
    "long convolution": (state_space, (-complexes(3, 4).abs() * (1 + 0.5j), complexes(3, 4))),
    "global filter": (
        lambda x, w: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * w, s=(3, 8), norm="ortho"),
        (W35,),
    ),
    "mixed by two transforms": (lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, ()),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", LAYERS)
def test_a_linear_layer_with_complex_weights_has_gradient_times_input(name: str, tmp_path: Path) -> None:
    function, weights = LAYERS[name]
    model = Applied(function, *weights)
    shapes = ({0: torch.export.Dim("batch")},)

    explainer = holds(model, (X,), (X.repeat(2, 1, 1),), dynamic_shapes=shapes)

    leaf = X.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    torch.testing.assert_close(explainer(X).relevance["x"], X * leaf.grad)
    survives_files(explainer, (X,), tmp_path)
    runs_in_onnxruntime(model, (X,), None, tmp_path)


@pytest.mark.slow
def test_a_transform_of_any_length_is_that_of_the_length_at_hand(tmp_path: Path) -> None:
    model = Applied(lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1, norm="ortho"), dim=-2).real)
    longer = torch.randn(2, 3, 11, dtype=torch.float64)
    shapes = ({2: torch.export.Dim("length", min=4)},)

    explainer = holds(model, (X,), (longer,), dynamic_shapes=shapes)

    leaf = longer.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    torch.testing.assert_close(explainer(longer).relevance["x"], longer * leaf.grad)
    runs_in_onnxruntime(model, (X,), (longer,), tmp_path, dynamic_shapes=shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["angle", "exp", "power", "bmm", "where", "norm"])
def test_onnxruntime_agrees(name: str, tmp_path: Path) -> None:
    def function(x: Tensor) -> Tensor:
        z = torch.complex(x[..., :5], x[..., 3:])
        return FUNCTIONS[name](z)

    runs_in_onnxruntime(in_precision(Applied(function), torch.float64), (X,), None, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "weights"),
    [
        (lambda z, w: (z * w).real, (complexes(3, 5),)),
        (lambda z: torch.fft.irfft(z, n=8), ()),
        (lambda z: torch.view_as_real(z @ z.real.sum((0, 1)).to(z.dtype).expand(5, 5) * 0 + z * 2j), ()),
    ],
    ids=["weighted", "inverse transform", "products"],
)
def test_a_complex_input_has_one_real_relevance_an_element(
    function: Callable, weights: tuple[Tensor, ...], tmp_path: Path
) -> None:
    """That of its real part and that of its imaginary part: gradient × input of both, where the function is linear."""
    model, z = Applied(function, *weights), SPECTRUM.clone()

    explainer = holds(model, (z,))

    leaf = torch.view_as_real(z).clone().requires_grad_()
    model(torch.view_as_complex(leaf))[:, 0].sum().backward()
    found = explainer(z).relevance["x"]
    assert found.shape == z.shape
    assert not found.is_complex()
    torch.testing.assert_close(found, (leaf * leaf.grad).sum(-1))
    survives_files(explainer, (z,), tmp_path)
