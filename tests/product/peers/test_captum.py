"""captum's interface: what its own LRP says of the networks that it knows, and what it cannot say of others."""

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError, InputError
from lrp_compiler.peers.kept import Kept

TINY = lrp.composites.epsilon(1e-9)
"""captum's stabiliser."""


class Net(nn.Module):
    """Modules that captum has rules for, each used once."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AvgPool2d(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class Weighed(nn.Module):
    """Two inputs, a tensor that is none, and a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 2, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, a: Tensor, b: Tensor, weight: Tensor, scale: float) -> Tensor:
        return (self.one(a) + self.other(b)) * weight * scale


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks", "ignore:Input Tensor 0 did not")
def test_it_is_what_captum_says() -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = Net().double().eval(), torch.randn(3, 2, 12, 12, dtype=torch.float64)

    found, delta = lrp.captum.LRP(net, TINY).attribute(x, target=[2, 0, 1], return_convergence_delta=True)
    expected, left = attr.LRP(net).attribute(x, target=[2, 0, 1], return_convergence_delta=True)

    # captum stabilises pools, too: 1e-9 beside values of 1e-2 and more.
    assert (found - expected.detach()).abs().max() <= 1e-7 * expected.abs().max()
    assert (delta - left.detach()).abs().max() <= 1e-7 * left.abs().max()


def test_inputs_come_back_as_they_were_given() -> None:
    net = Weighed().eval()
    a, b, weight = torch.randn(5, 3), torch.randn(5, 4), torch.rand(5, 2)

    found = lrp.captum.LRP(net).attribute((a, b), target=1, additional_forward_args=(weight, 2.0))

    assert isinstance(found, tuple)
    # Without activations and biases it is x ⊙ ∂z/∂x, but for the stabiliser: ε/|z| of a share.
    for given, weights, one in zip((a, b), (net.one.weight, net.other.weight), found, strict=True):
        expected = given * weights[1] * weight[:, 1:] * 2.0
        torch.testing.assert_close(one, expected.detach(), rtol=2e-4, atol=2e-6)


def test_a_model_of_one_class_needs_no_target_and_others_do() -> None:
    x = torch.randn(4, 3)
    one, several = nn.Linear(3, 1).eval(), nn.Linear(3, 2).eval()

    found = lrp.captum.LRP(one, TINY).attribute(x)

    torch.testing.assert_close(found, (x * one.weight).detach(), rtol=1e-6, atol=1e-7)
    with pytest.raises(InputError, match="tells 2 classes apart: say which by target="):
        lrp.captum.LRP(several).attribute(x)
    with pytest.raises(InputError, match="A target of several numbers"):
        lrp.captum.LRP(several).attribute(x, target=(0, 1))


def test_it_compiles_once_until_weights_change() -> None:
    net, x = nn.Linear(3, 2).eval(), torch.randn(4, 3)
    kept = Kept(TINY)

    first = kept.explain(net, (x,), 1)
    compiled = dict(kept._explainers)
    kept.explain(net, (torch.randn(7, 3),), torch.arange(7) % 2)
    assert list(kept._explainers.values()) == list(compiled.values())
    net.weight.data.mul_(2)  # which autograd's counter of versions does not see
    second = kept.explain(net, (x,), 1)

    assert list(kept._explainers.values()) != list(compiled.values())
    torch.testing.assert_close(second.relevance["input"], 2 * first.relevance["input"], rtol=1e-6, atol=1e-7)
    with pytest.raises(CaptureError, match="training"):
        kept.explain(net.train(), (x,), 1)
