"""The network of a case, and what every method that differentiates it in PyTorch shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.networks.published import PUBLISHED, Published

IDS = "input_ids"


def network(name: str) -> Published:
    """By its name among `PUBLISHED`, or among `ARCHITECTURES` with sizes: "roberta_large/depth=6,sequence=128"."""
    name, _, text = name.partition("/")
    if not text:
        return PUBLISHED[name]
    sizes = {key: int(value) for key, value in (part.split("=") for part in text.split(","))}
    architecture = ARCHITECTURES[name]
    if "sequence" in sizes:
        architecture = replace(architecture, sizes={**architecture.sizes, "sequence": (sizes.pop("sequence"),)})
    sizes = {"width": 1} | sizes
    return Published(
        architecture.title,
        lambda: architecture.build(**sizes),
        lambda seed: architecture.inputs(1, seed=seed),
        architecture.composite,
    )


def batch_of(published: Published, batch: int) -> dict[str, Tensor]:
    """Inputs whose rows differ."""
    rows = [published.inputs(seed) for seed in range(1, batch + 1)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def for_gradients(published: Published) -> nn.Module:
    """The model, none of whose parameters asks for a gradient: nobody pays for what nobody reads."""
    return published.build().requires_grad_(False)


def leaf(model: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, str]:
    """What is explained, without its history, and the argument it goes to: pixels, or the embeddings of tokens."""
    if IDS in inputs:
        return model.get_input_embeddings()(torch.from_numpy(inputs[IDS])).detach(), "inputs_embeds"
    ((name, value),) = inputs.items()
    return torch.from_numpy(value).clone(), name


def explained(result: Any) -> Tensor:
    """The largest logit of each row, at the last position where there are several: `[batch]`."""
    logits = getattr(result, "logits", result)
    logits = logits[:, -1] if logits.ndim == 3 else logits
    value: Tensor = logits.max(-1).values
    return value


def per_input(relevance: Tensor, name: str) -> Any:
    """As numpy; of embeddings, summed over features: one number a token."""
    return (relevance.sum(-1) if name == "inputs_embeds" else relevance).detach().numpy()
