"""Batch norm folded into the map before it, exactly."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import FileCheck

from lrp_compiler.passes.forward.fold_batch_norm import fold_batch_norm
from lrp_compiler.passes.graph.canonicalise import canonicalise


def alive(model: nn.Module) -> nn.Module:
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5 if "var" in name else torch.randn(tensor.shape))
    return model


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


CASES = {
    "conv1d": (nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)), x(2, 2, 6)),
    "conv2d": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps=0.3)), x(2, 2, 5, 5)),
    "conv2d without bias": (nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)), x(2, 2, 5, 5)),
    "conv2d, grouped": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)), x(2, 4, 5, 5)),
    "conv3d": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2)), x(2, 1, 3, 3, 3)),
    "linear": (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), x(5, 4)),
    "not affine": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), x(2, 2, 5, 5)),
    "two in a row": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), x(2, 2, 5, 5)),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CASES)
def test_folding_changes_no_output(name: str, graph_of: Callable) -> None:
    model, example = CASES[name]
    before = canonicalise(graph_of(alive(model), example)).graph_module
    FileCheck().check("aten.batch_norm").run(before.code)

    result = fold_batch_norm(before)

    assert result.modified
    FileCheck().check_not("batch_norm").run(result.graph_module.code)
    torch.testing.assert_close(result.graph_module(example)[0], model(example), rtol=1e-12, atol=1e-12)


def test_folding_leaves_the_models_weights_alone(graph_of: Callable) -> None:
    model = alive(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)))
    weight = model[0].weight.detach().clone()

    fold_batch_norm(canonicalise(graph_of(model, x(2, 2, 5, 5))).graph_module)

    assert torch.equal(model[0].weight, weight)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.convolution(x)
        return self.norm(z) + z


class Shared(Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x)) + self.convolution(x + 1)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("model", "example"),
    [
        (Branching(), x(2, 2, 3, 3)),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), x(2, 3)),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(3)), x(2, 3, 4)),
    ],
    ids=["another reader", "no map before", "another channel dim"],
)
def test_a_batch_norm_that_cannot_be_folded_stays(model: nn.Module, example: torch.Tensor, graph_of: Callable) -> None:
    before = canonicalise(graph_of(alive(model), example)).graph_module

    result = fold_batch_norm(before)

    assert not result.modified
    FileCheck().check("aten.batch_norm").run(result.graph_module.code)
    torch.testing.assert_close(result.graph_module(example)[0], model(example), rtol=1e-12, atol=1e-12)


def test_a_weight_used_elsewhere_too_keeps_its_value_there(graph_of: Callable) -> None:
    model, example = alive(Shared()), x(2, 2, 3, 3)

    result = fold_batch_norm(canonicalise(graph_of(model, example)).graph_module)

    torch.testing.assert_close(result.graph_module(example)[0], model(example), rtol=1e-12, atol=1e-12)
