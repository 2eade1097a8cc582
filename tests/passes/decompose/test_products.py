"""Maps with computed weights become products of two activations; those with weights of their own stay."""

from collections.abc import Callable

import pytest
import torch
from support.whole import holds
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.passes.decompose.products import write_out_products

pytestmark = pytest.mark.sampled(4)


def of_linear(x: Tensor) -> Tensor:
    return functional.linear(x, (x * 2)[:3], x.sum(-1)[:3])


def of_addmm(x: Tensor) -> Tensor:
    return torch.addmm(x[:, :1], x, x.t(), beta=0.5, alpha=-2)


def of_vectors(x: Tensor) -> Tensor:
    square = x[:, :4]
    products = [
        torch.mv(x, x[0]),
        torch.dot(x[0], x[1])[None],
        torch.mv(square, FIXED[:, 0]),
        torch.dot(FIXED[0], x[2])[None],
    ]
    products += [torch.addmv(x[:, 0], x, x[1], beta=0.5, alpha=-2), torch.addmv(x[:, 0], FIXED, FIXED[0])]
    pages = x.reshape(2, 5, 6)
    return torch.cat([*products, torch.addbmm(x[:1, :1], pages, pages.mT, beta=2, alpha=0.5).flatten()])


def of_convolutions(x: Tensor) -> Tensor:
    maps = x.reshape(2, 2, 3, 5)
    plain = functional.conv2d(maps, x.reshape(-1)[:48].reshape(4, 2, 2, 3), x[:, 0][:4], (2, 1), (1, 2), (1, 2))
    grouped = functional.conv1d(maps[:, 0].reshape(1, 6, 5), x.reshape(-1)[:36].reshape(6, 2, 3), None, 1, 2, 1, 3)
    unbatched = functional.conv1d(maps[0, 0], x[:, :3].reshape(4, 3, 1)[:, :, :1])
    volume = functional.conv3d(maps.unsqueeze(0), x.reshape(-1)[:16].reshape(2, 2, 1, 2, 2), stride=2)
    return torch.cat([part.flatten() for part in (plain, grouped, unbatched, volume)])


def of_transposed_convolutions(x: Tensor) -> Tensor:
    maps = x.reshape(2, 2, 3, 5)
    square = x.reshape(-1)[:36].reshape(2, 3, 2, 3)
    plain = functional.conv_transpose2d(maps, square, x[0, :3], (2, 1), (1, 4), (1, 0), 1, (1, 2))
    grouped = functional.conv_transpose1d(maps[:, 0].reshape(1, 6, 5), x.reshape(-1)[:36].reshape(6, 2, 3), groups=3)
    unbatched = functional.conv_transpose1d(maps[0, 0], x[:, :3].reshape(3, 4, 1)[:, :, :1], stride=3)
    volume = functional.conv_transpose3d(maps.unsqueeze(0), x.reshape(-1)[:16].reshape(2, 2, 1, 2, 2), stride=2)
    return torch.cat([part.flatten() for part in (plain, grouped, unbatched, volume)])


FIXED = torch.randn(4, 15, dtype=torch.float64)


def of_weights_alone(x: Tensor) -> Tensor:
    maps, kernels = FIXED.reshape(2, 2, 3, 5), x.reshape(-1)[:24].reshape(4, 2, 1, 3)
    made = functional.conv2d(maps, kernels, FIXED[:, 0], padding=1), functional.conv_transpose2d(maps, kernels[:2])
    return torch.cat([part.flatten() for part in (functional.linear(FIXED, x, FIXED[:, 0]), *made)])


def of_biases_alone(x: Tensor) -> Tensor:
    maps, kernels = FIXED.reshape(2, 2, 3, 5), FIXED.reshape(-1)[:24].reshape(4, 2, 1, 3)
    made = functional.linear(FIXED, FIXED, x[:, 0]), torch.addmm(x[:, :4], FIXED, FIXED.t())
    return torch.cat([part.flatten() for part in (*made, functional.conv2d(maps, kernels, x[:, 1]))])


def of_layer_norms(x: Tensor) -> Tensor:
    return torch.cat([functional.layer_norm(x, (15,), x[0], x[1]), functional.layer_norm(x, (15,), None, x[2], 0.1)])


INPUTS = {
    of_linear: torch.randn(4, 15),
    of_addmm: torch.randn(4, 15),
    of_vectors: torch.randn(4, 15),
    of_layer_norms: torch.randn(4, 15),
    of_convolutions: torch.randn(4, 15),
    of_transposed_convolutions: torch.randn(4, 15),
    of_weights_alone: torch.randn(4, 15),
    of_biases_alone: torch.randn(4, 15),
}


@pytest.mark.sampled(16)
@pytest.mark.parametrize("function", INPUTS, ids=lambda f: f.__name__)
def test_what_is_written_out_computes_the_same(function: Callable, graph_of: Callable, targets: Callable) -> None:
    x = INPUTS[function].double()
    before = graph_of(function, x)

    result = write_out_products(before)

    assert result.modified
    assert not any("conv" in name or "linear" in name or "addmm" in name for name in map(str, targets(before)))
    torch.testing.assert_close(result.graph_module(x)[0], function(x), rtol=1e-12, atol=1e-12)


def test_weights_of_their_own_stay(graph_of: Callable) -> None:
    weight = torch.randn(3, 15)

    assert not write_out_products(graph_of(lambda x: functional.linear(x, weight), torch.randn(4, 15))).modified
    assert not write_out_products(graph_of(lambda x: torch.addmm(weight[0, :3], x, weight.t()), weight)).modified
    assert not write_out_products(graph_of(lambda x: torch.addmm(weight[0], weight.t(), x), weight)).modified


class Hyper(nn.Module):
    """Weights of a linear and of a convolution, made from the input by small networks."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.kernel, self.head = nn.Linear(6, 24), nn.Linear(6, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = functional.linear(x, self.dense(x.mean((0, 1))).reshape(4, 6))
        kernels = self.kernel(x.mean((0, 1))).reshape(4, 1, 3)
        return self.head(functional.conv1d(mixed.transpose(1, 2), kernels, None, 1, 1, 1, 4).mean(-1))


@pytest.mark.slow
def test_relevance_is_gradient_times_input_over_two_at_each_product() -> None:
    """`attnlrp` takes the limit ε → 0 and uniform halves: autograd with the gradient of each product halved."""
    torch.manual_seed(0)
    model, x = Hyper().double().eval(), torch.randn(2, 5, 6, dtype=torch.float64)

    ours = lrp.compile(model, (x,), composite="attnlrp", target=1)(x).relevance["x"]

    class Halve(torch.autograd.Function):
        @staticmethod
        def forward(context, value):  # type: ignore[no-untyped-def]
            return value.clone()

        @staticmethod
        def backward(context, gradient):  # type: ignore[no-untyped-def]
            return gradient / 2

    half, y = Halve.apply, x.clone().requires_grad_()
    mixed = half(functional.linear(y, model.dense(y.mean((0, 1))).reshape(4, 6)))
    kernels = model.kernel(y.mean((0, 1))).reshape(4, 1, 3)
    logits = model.head(half(functional.conv1d(mixed.transpose(1, 2), kernels, None, 1, 1, 1, 4)).mean(-1))
    logits[:, 1].sum().backward()
    wanted = y.grad * x
    assert (ours - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("function", [of_weights_alone, of_biases_alone], ids=lambda f: f.__name__)
def test_a_map_of_computed_weights_alone_has_gradient_times_input(function: Callable) -> None:
    class Made(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x).unsqueeze(0)

    x = INPUTS[function].double()
    y = x.clone().requires_grad_()
    function(y)[7].backward()

    ours = holds(Made(), (x,), target=7)(x).relevance["x"]

    torch.testing.assert_close(ours, y.grad * x, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("function", [of_layer_norms, of_vectors, of_transposed_convolutions], ids=lambda f: f.__name__)
def test_relevance_passes_what_is_written_out(function: Callable) -> None:
    class Made(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x).reshape(1, -1)

    for composite in ("epsilon", "attnlrp"):
        holds(Made(), (INPUTS[function],), target=3, composite=composite)
