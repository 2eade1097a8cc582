"""PyTorch itself: the forward, and gradient × input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.cases import Case
from benchmarks.speed.peers.networks import explained, for_gradients, leaf, network, per_input


def make(name: str, case: Case, folder: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    torch.set_num_threads(threads)
    model = for_gradients(network(case.network))
    return (forward if name == "torch-forward" else gradient_times_input)(model)


def forward(model: torch.nn.Module) -> Callable[[dict[str, Any]], Any]:
    @torch.inference_mode()
    def run(inputs: dict[str, Any]) -> Any:
        return explained(model(**{name: torch.from_numpy(value) for name, value in inputs.items()})).numpy()

    return run


def gradient_times_input(model: torch.nn.Module, seed: str = "one") -> Callable[[dict[str, Any]], Any]:
    """`seed`: what is put on the explained logit, "one" or its own "value" (for rules that turn it into relevance)."""

    def run(inputs: dict[str, Any]) -> Any:
        x, argument = leaf(model, inputs)
        value = explained(model(**{argument: x.requires_grad_()}))
        (found,) = torch.autograd.grad(value, x, torch.ones_like(value) if seed == "one" else value.detach())
        return per_input(found * x if seed == "one" else found, argument)

    return run
