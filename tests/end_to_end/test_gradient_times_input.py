"""Where LRP must equal gradient × input: autograd is the oracle, in float64.

In the limit ε → 0 the ε rule's unit form is the gradient of a piecewise linear network, biases or not (their share is
b ⊙ ∂f/∂b). Beyond that, AttnLRP is the gradient of a forward in which products count half and what is held fixed is
detached: that forward is written out here by hand.

Sources: Ancona et al., "Towards better understanding of gradient-based attribution methods", ICLR 2018, arXiv
1711.06104 (ε → 0); Achtibat et al., "AttnLRP", arXiv 2402.05602 (the detached forward).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from support.blocks import INPUTS, GatedMLP, ResidualNet, TransformerBlock, build, draw
from support.life import zero_biases
from support.small import small
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(12)


def gradient_times_input(function: Callable[..., Tensor], *inputs: Tensor, target: int | Tensor = 1) -> list[Tensor]:
    """x ⊙ ∂z/∂x for every input, z being each row's target logit."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    logits = function(*leaves)
    chosen = logits.gather(1, torch.as_tensor(target).expand(len(logits)).unsqueeze(1))
    gradients = torch.autograd.grad(chosen.sum(), leaves)
    return [(x * gradient).detach() for x, gradient in zip(leaves, gradients, strict=True)]


def explained(model: nn.Module, *inputs: Tensor, composite: Any = "attnlrp") -> list[Tensor]:
    return list(lrp.compile(model, inputs, composite=composite, target=1)(*inputs).relevance.values())


def assert_close(result: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((result - expected).abs().max()) <= tolerance * scale


# ---- Piecewise linear networks --------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Branches concatenated, added, subtracted and compared."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.classes = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        joined = torch.cat([torch.relu(a - 0.5 * b), torch.maximum(a, b), a.abs(), functional.leaky_relu(a + b)], 1)
        return self.classes(joined.amax((2, 3)) + joined.sum((2, 3)) / 7)


def image_head(channels: int, *steps: nn.Module) -> nn.Module:
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


IMAGE, SIGNAL = (2, 3, 9, 8), (2, 3, 17)
PIECEWISE_LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)), (3, 6)),
    "strided": (lambda: image_head(5, nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.Conv2d(5, 5, 2, stride=3)), IMAGE),
    "groups": (lambda: image_head(8, nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU()), IMAGE),
    "depthwise": (lambda: image_head(6, nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1)), IMAGE),
    "dilated": (lambda: image_head(4, nn.Conv2d(3, 4, 3, dilation=2, padding=2), nn.ReLU()), IMAGE),
    "same": (lambda: image_head(4, nn.Conv2d(3, 4, (4, 3), padding="same"), nn.ReLU()), IMAGE),
    "transposed": (
        lambda: image_head(4, nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
        IMAGE,
    ),
    "max pool": (lambda: image_head(4, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)), IMAGE),
    "max pool before": (lambda: image_head(4, nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGE),
    "average pool": (
        lambda: image_head(4, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)),
        IMAGE,
    ),
    "uneven adaptive pool": (lambda: image_head(4, nn.AdaptiveAvgPool2d((4, 3)), nn.Conv2d(3, 4, 2), nn.ReLU()), IMAGE),
    "one dim": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 5, stride=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3), nn.Flatten()
        ),
        SIGNAL,
    ),
    "three dims": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(32, 4)),
        (2, 2, 5, 5, 5),
    ),
    "branches": (lambda: Branches(), IMAGE),
    "residual, batch norm folded": (lambda: build(ResidualNet), INPUTS[ResidualNet]),
}
NETWORKS = pytest.mark.parametrize("name", PIECEWISE_LINEAR)


def network(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = PIECEWISE_LINEAR[name]
    torch.manual_seed(0)
    return make().double().eval(), draw(shape)


@cache
def in_the_limit(name: str) -> lrp.Explainer:
    model, x = network(name)
    return lrp.compile(model, (x,), composite="attnlrp", target=1)


@pytest.mark.sampled(48)
@NETWORKS
def test_relevance_is_gradient_times_input(name: str) -> None:
    model, x = network(name)

    (relevance,) = in_the_limit(name)(x).relevance.values()

    assert_close(relevance, gradient_times_input(model, x)[0], 1e-12)


@pytest.mark.sampled(48)
@NETWORKS
def test_relevance_is_gradient_times_input_up_to_a_small_epsilon(name: str) -> None:
    model, x = network(name)

    (relevance,) = explained(model, x, composite=lrp.composites.epsilon(epsilon=1e-12))

    # Up to ε/|z| of the smallest z.
    assert_close(relevance, gradient_times_input(model, x)[0], 1e-7)


@pytest.mark.sampled(48)
@NETWORKS
def test_without_biases_it_adds_up_to_the_logit(name: str) -> None:
    model, x = network(name)
    model = zero_biases(model)

    (relevance,) = explained(model, x)

    assert_close(relevance, gradient_times_input(model, x)[0], 1e-12)
    with torch.no_grad():
        torch.testing.assert_close(relevance.flatten(1).sum(1), model(x)[:, 1], rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", [name for name in PIECEWISE_LINEAR if "batch norm" not in name])
def test_the_biases_absorb_gradient_times_bias(name: str) -> None:
    model, x = network(name)
    biases = [parameter for key, parameter in model.named_parameters() if key.endswith("bias")]
    shares = torch.autograd.grad(model(x)[:, 1].sum(), biases)

    absorbed = in_the_limit(name).audit(x).absorbed

    expected = sum(float((bias * share).detach().sum()) for bias, share in zip(biases, shares, strict=True))
    assert absorbed["bias"] == pytest.approx(expected, rel=1e-10)


# EfficientNet-Lite0 is none of them: a ReLU6 has a plateau, where the identity rule does not stop.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_whole_architectures(name: str, explain: Callable[..., lrp.Explainer]) -> None:
    example = small(name, torch.float64)
    (x,), _ = example.fresh(batch=2, seed=7)
    target = torch.tensor([3, 0])

    relevance = explain(name, "attnlrp", torch.float64)(x, target=target).relevance["x"]

    assert_close(relevance, gradient_times_input(example.model, x, target=target)[0], 1e-11)


# ---- AttnLRP as the gradient of another forward ---------------------------------------------------------------------


def half(x: Tensor) -> Tensor:
    """x, with half its gradient."""
    return 0.5 * x + (0.5 * x).detach()


def identity_rule(x: Tensor, y: Tensor) -> Tensor:
    """y = f(x), with the slope y/x of the chord."""
    return x * (y / x).detach()


class LinearAttention(nn.Module):
    """Attention without softmax: each of the two products shares its relevance between its operands."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) @ v).mean(1)


def test_linear_attention_halves_gradient_times_input_at_each_product() -> None:
    q, k, v = draw((2, 5, 3), 1), draw((2, 5, 3), 2), draw((2, 5, 4), 3)

    shares = explained(LinearAttention().eval(), q, k, v)

    gradients = gradient_times_input(LinearAttention(), q, k, v)
    for share, factor, expected in zip(shares, (0.25, 0.25, 0.5), gradients, strict=True):
        assert_close(share, factor * expected, 1e-12)


def test_linear_attention_of_one_input_adds_its_paths() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))

        def forward(self, x: Tensor, share: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
            q, k, v = (layer(x) for layer in self.layers)
            return (share(share(q) @ share(k).transpose(-2, -1)) @ share(v)).mean(1)

    torch.manual_seed(0)
    model, x = Projected().double().eval(), draw((2, 5, 4))

    (relevance,) = explained(model, x)

    assert_close(relevance, gradient_times_input(lambda x: model(x, half), x)[0], 1e-12)
    with torch.no_grad():
        torch.testing.assert_close(relevance.sum((1, 2)), model(x)[:, 1], rtol=1e-11, atol=0)


class TransformerOfGradients(TransformerBlock):
    """The block whose gradient × input is AttnLRP's relevance."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = half(q) @ half(k).transpose(-2, -1) / q.shape[-1] ** 0.5
        return half(torch.softmax(scores, -1)) @ half(v)

    def forward(self, x: Tensor) -> Tensor:
        def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
            deviation = (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt().detach()
            return (x - x.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias

        x = x + self.attention(norm(self.first, x))
        h = self.up(norm(self.second, x))
        x = x + self.down(identity_rule(h, functional.gelu(h)))
        return self.classes(x.mean(1))


class GatedOfGradients(GatedMLP):
    """The gated layer whose gradient × input is AttnLRP's relevance."""

    def forward(self, x: Tensor) -> Tensor:
        h = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6).detach() * self.norm.weight
        gate = self.gate(h)
        return self.classes(x + self.down(half(identity_rule(gate, functional.silu(gate))) * half(self.up(h))))


@pytest.mark.parametrize(
    ("network", "oracle"), [(TransformerBlock, TransformerOfGradients), (GatedMLP, GatedOfGradients)]
)
def test_attnlrp_is_the_gradient_of_the_detached_forward(network: type[nn.Module], oracle: type[nn.Module]) -> None:
    model, twin, x = build(network), build(oracle), draw(INPUTS[network])
    torch.testing.assert_close(twin(x), model(x), rtol=1e-12, atol=1e-12)

    (relevance,) = explained(model, x)

    assert_close(relevance, gradient_times_input(twin, x)[0], 1e-12)
