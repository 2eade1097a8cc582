"""The ε rule behind a ReLU: no sign, no value in front of the ReLU, the same relevance."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp


def seeded(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Two branches that meet in front of a ReLU, which two consumers read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 5)
        self.classes = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.relu(self.a(x) + self.b(x))
        return self.classes(torch.relu(self.c(joined)) + joined)


def dense(*, epsilon: float) -> Callable[[Tensor, nn.Sequential], Tensor]:
    """Relevance of a ReLU network's largest logit by the ε rule as it is written in the literature."""

    def relevance(x: Tensor, network: nn.Sequential) -> Tensor:
        first, _, second = network
        z = x @ first.weight.T + first.bias
        a = z.clamp(min=0)
        logits = a @ second.weight.T + second.bias
        best = logits.argmax(-1, keepdim=True)
        r = torch.zeros_like(logits).scatter(1, best, logits.gather(1, best))

        def step(a: Tensor, layer: nn.Linear, r: Tensor) -> Tensor:
            z = a @ layer.weight.T + layer.bias
            return a * ((r / (z + epsilon * ((z >= 0).to(z) * 2 - 1))) @ layer.weight)

        return step(x, first, step(a, second, r))

    return relevance


@pytest.mark.sampled(4)
@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_the_relevance_is_that_of_the_formula(epsilon: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval()
    x = seeded((5, 6))

    explainer = lrp.compile(network, (x,), composite=lrp.composites.epsilon(epsilon=epsilon))

    expected = dense(epsilon=epsilon)(x, network)
    torch.testing.assert_close(explainer(x).relevance["input"], expected, rtol=1e-12, atol=1e-14)


def test_nobody_asks_for_the_value_in_front_of_the_relu() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval()
    x = seeded((5, 6))

    merged, plain = (lrp.compile(network, (x,), optimise=value) for value in (True, False))

    assert "aten.sign.default" in str(plain.module.graph)
    assert "aten.sign.default" not in str(merged.module.graph)
    assert "linear" in {promise.value for promise in plain.plan if promise.resolution == "kept"}
    assert "linear" not in {promise.value for promise in merged.plan if promise.resolution == "kept"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("target", ["argmax", [0, 2]])
@pytest.mark.parametrize("budget", [1.0, 0.0])
def test_residual_connections_agree_with_the_rules_as_written(target: object, budget: float) -> None:
    torch.manual_seed(0)
    network, x = Residual().double().eval(), seeded((5, 6))
    x[0] = 0

    merged, plain = (
        lrp.compile(network, (x,), target=target, memory_budget=budget, optimise=value) for value in (True, False)
    )

    expected = plain(x).relevance["x"]
    torch.testing.assert_close(merged(x).relevance["x"], expected, rtol=1e-12, atol=1e-13)


def test_half_precision_is_recognised_through_its_casts() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).half().eval()

    explainer = lrp.compile(network, (seeded((5, 6)).half(),))

    assert "aten.sign.default" not in str(explainer.module.graph)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("activation", [nn.LeakyReLU(), nn.ReLU6(), nn.GELU()])
def test_other_activations_stay(activation: nn.Module) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 4)).double().eval()
    x = seeded((5, 6))

    merged, plain = (lrp.compile(network, (x,), optimise=value) for value in (True, False))

    assert len(merged.module.graph.nodes) == len(plain.module.graph.nodes)
    torch.testing.assert_close(merged(x).relevance["input"], plain(x).relevance["input"], rtol=0, atol=0)
