"""Relevance of differences adds up to the difference of outputs, and is DeepLIFT's where that is defined."""

import pytest
import torch
from torch import nn

from benchmarks.faithful.differences import Rules, explain, exported
from benchmarks.faithful.training import vit

EXACT = Rules(small=1e-7)


def case(model: nn.Module, *size: int):
    torch.manual_seed(1)
    x, reference = torch.randn(2, 3, *size, dtype=torch.float64)
    model = model.eval().double()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales that initialisation leaves at 0 and 1
            parameter += 0.05 * torch.randn_like(parameter)
    return model, exported(model, (x,), ({0: batch},)), x, reference


def pools() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(4, 6, 3), nn.MaxPool2d((3, 2), 1), nn.Flatten(), nn.LazyLinear(10)),
    )


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(("make", "size"), [(vit, (1, 28, 28)), (pools, (1, 13, 12))])
def test_relevance_adds_up_to_the_difference_of_the_outputs(make, size):
    torch.manual_seed(0)
    model = make().double()
    model(torch.zeros(2, *size, dtype=torch.float64))  # lazy sizes
    model, program, x, reference = case(model, *size)
    target = torch.tensor([0, 3, 9])

    relevance, _ = explain(program, x, reference, target, EXACT)

    with torch.no_grad():
        difference = (model(x) - model(reference)).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(relevance.flatten(1).sum(1), difference, rtol=0, atol=1e-9)


def test_values_inside_hand_on_the_whole_difference():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(100, 5))
    _, program, x, reference = case(model, 1, 7, 7)
    inner = next(node.name for node in program.graph.nodes if node.target is torch.ops.aten.relu.default)

    relevance, inside = explain(program, x, reference, torch.tensor([0, 3, 4]), EXACT, [inner])

    assert inside[inner].shape == (3, 4, 5, 5)
    torch.testing.assert_close(inside[inner].flatten(1).sum(1), relevance.flatten(1).sum(1), rtol=0, atol=1e-9)


def test_on_relu_networks_it_is_deeplift():
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
    )
    model, program, x, reference = case(model, 1, 12, 12)
    target = torch.tensor([0, 3, 4])

    relevance, _ = explain(program, x, reference, target, EXACT)

    theirs = attr.DeepLift(model).attribute(x, reference, target=target)
    torch.testing.assert_close(relevance, theirs, rtol=0, atol=1e-9)
