"""Zennit 0.5.1, used as its documentation does: a composite registered once, one backward for each explanation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.networks import torchvision_operators  # noqa: F401  # zennit imports torchvision

# isort: split
import torch
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer
from zennit.types import Linear

from benchmarks.speed.cases import Case
from benchmarks.speed.peers.gradient import gradient_times_input
from benchmarks.speed.peers.networks import for_gradients, network

CANONIZERS: dict[str, type[Canonizer]] = {"resnet50": ResNetCanonizer}


def make(name: str, case: Case, folder: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    torch.set_num_threads(threads)
    model = for_gradients(network(case.network))
    # Zennit's hooks cannot follow a value that is overwritten.
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    canonizers = [CANONIZERS.get(case.network.partition("/")[0], SequentialMergeBatchNorm)()]
    COMPOSITES[case.composite](canonizers, **case.options).register(model)
    return gradient_times_input(model, seed="value")


def epsilon_everywhere(canonizers: list[Canonizer]) -> Composite:
    """The composite that Zennit does not name: ε for every linear map, the rest as in its other composites."""
    return LayerMapComposite([*layer_map_base(1e-6), (Linear, Epsilon(epsilon=1e-6))], canonizers=canonizers)


def gamma_box(canonizers: list[Canonizer], low: float, high: float) -> Composite:
    bounds = [torch.full((1, 3, 1, 1), bound) for bound in (low, high)]
    return EpsilonGammaBox(*bounds, canonizers=canonizers)


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon": epsilon_everywhere,
    "epsilon-plus": lambda canonizers: EpsilonPlus(canonizers=canonizers),
    "epsilon-gamma-box": gamma_box,
}
