"""Values of maps into which a batch norm or a bias is folded: named by both, and apart for a dictionary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp


class Times(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Plus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Net(nn.Module):
    """A map, what is folded into it, and a layer behind a ReLU."""

    def __init__(self, first: nn.Module, then: nn.Module) -> None:
        super().__init__()
        self.first, self.then, self.out = first, then, nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.then(self.first(x)).relu()
        return self.out(hidden.flatten(2).mean(2) if x.dim() > 2 else hidden)


PAIRS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convolution and norm": lambda: (Net(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5)), torch.randn(3, 2, 5, 5)),
    "dense layer and norm": lambda: (Net(nn.Linear(4, 5), nn.BatchNorm1d(5)), torch.randn(3, 4)),
    "product and bias": lambda: (Net(Times(), Plus()), torch.randn(3, 4)),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = PAIRS[request.param]()
    for held in model.buffers():
        if held.is_floating_point():  # statistics that do something
            held.uniform_(0.5, 3.0)
    return model.double().eval(), x.double()


def leaving(model: nn.Module, path: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The value that leaves a module, and the gradient of class 1 there."""
    found: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_hook(lambda module, args, result: found.append(result))
    logits = model(x.clone().requires_grad_())
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), found[0])
    return found[0].detach(), gradient


@pytest.mark.sampled(4)
def test_the_value_goes_by_the_module_that_it_leaves(pair: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, x = pair
    value, gradient = leaving(model, "then", x)
    asked: dict[str, Any] = {"composite": "attnlrp", "target": 1}
    explainer = lrp.compile(model, (x,), **asked, observe="then", form="both", masks="then")
    plain = lrp.compile(model, (x,), **asked)
    plain.save(tmp_path / "m.lrp.pt2")

    found = explainer(x)
    later = lrp.load(tmp_path / "m.lrp.pt2").observe("then")(x)

    torch.testing.assert_close(explainer.activation("then", x), value)
    torch.testing.assert_close(found.coefficients["then"], gradient)
    torch.testing.assert_close(found.relevance["then"], value * gradient)
    torch.testing.assert_close(later.relevance["then"], found.relevance["then"])
    assert torch.equal(found.relevance["x"], plain(x).relevance["x"])


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("path", ["first", "then"])
def test_a_dictionary_reads_the_value_of_its_own_module(pair: tuple[nn.Module, Tensor], path: str) -> None:
    model, x = pair
    value, _ = leaving(model, path, x)

    class Doubling:
        def encode(self, x: Tensor) -> Tensor:
            return torch.relu(x * 2)

        def decode(self, features: Tensor) -> Tensor:
            return features * 0.5

    explainer = lrp.compile(
        model, (x,), composite="attnlrp", target=1, splice={path: Doubling()}, observe=f"{path}.features"
    )

    torch.testing.assert_close(explainer.activation(f"{path}.features", x), torch.relu(value * 2))
    torch.testing.assert_close(explainer(x).output, model(x))
