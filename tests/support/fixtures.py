"""Reference results computed by other tools, with the models rebuilt in today's classes, in float64.

Each file holds weights, inputs, outputs and relevance; how the reference was made is written in its metadata.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from .folders import TESTS

FIXTURES: Path = TESTS / "fixtures"


class AttnLrpReference(NamedTuple):
    """LXT's AttnLRP of the target logit of each row: at the last position for causal models, seed = the logit."""

    model: nn.Module
    input_ids: Tensor  # [batch, sequence]
    target: Tensor  # [batch]
    logits: Tensor  # [batch, classes] or [batch, sequence, classes]
    relevance: Tensor  # [batch, sequence]
    relevance_features: Tensor  # [batch, sequence, features]


class DynamicLrpCnnReference(NamedTuple):
    """The DynamicLRP reference code on a small CNN, seed 1 at the argmax."""

    model: nn.Module
    x: Tensor  # [1, 3, 16, 16]
    target: Tensor  # [1], the argmax
    logits: Tensor  # [1, 5]
    relevance: Tensor  # shaped like x
    options: dict[str, Any]  # of the reference code; {} means ε everywhere


class DynamicLrpGpt2Reference(NamedTuple):
    """The DynamicLRP reference code on a small GPT-2, seed 1 at the argmax of the last position."""

    model: nn.Module
    input_ids: Tensor  # [1, sequence]
    target: Tensor  # [1], the argmax
    logits: Tensor  # [1, classes], of the last position
    relevance_word: Tensor  # [1, sequence], of the word embeddings
    relevance_position: Tensor  # [1, sequence], of the position embeddings


class SmallCnn(nn.Module):
    """The network of the DynamicLRP CNN references; the names of its parameters are those of the files."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1)
        self.c2 = nn.Conv2d(8, 12, 3, padding=1)
        self.l1 = nn.Linear(192, 20)
        self.l2 = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.c1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.c2(x).relu(), 2)
        return self.l2(self.l1(x.flatten(1)).relu())


def attnlrp(name: str, attn_implementation: str = "eager") -> AttnLrpReference:
    """Load the AttnLRP reference of `"bert"`, `"llama"` or `"gemma3"`.

    The reference ran with eager attention, and Llama's and Gemma's takes its softmax in float32 even in a float64
    model: with "sdpa" their logits differ by 1e-6 relative.
    """
    tensors, metadata = _read(f"attnlrp_{name}")
    model = _rebuild(metadata, _weights_of(tensors), attn_implementation)
    return AttnLrpReference(model, **{field: tensors[field] for field in AttnLrpReference._fields[1:]})


def dynamiclrp_cnn(name: str) -> DynamicLrpCnnReference:
    """Load the CNN reference: `"eps"` or `"gamma"`."""
    tensors, metadata = _read(f"dynamiclrp_cnn_{name}")
    model = SmallCnn()
    model.load_state_dict(_weights_of(tensors))
    logits = tensors["logits"]
    return DynamicLrpCnnReference(
        model=model.eval().double(),
        x=tensors["x"],
        target=logits.argmax(-1),
        logits=logits,
        relevance=tensors["relevance"],
        options=json.loads(metadata["options"]),
    )


def dynamiclrp_gpt2() -> DynamicLrpGpt2Reference:
    """Load the GPT-2 reference."""
    tensors, metadata = _read("dynamiclrp_gpt2")
    logits = tensors["logits"]
    return DynamicLrpGpt2Reference(
        model=_rebuild(metadata, _weights_of(tensors), "eager"),
        input_ids=tensors["input_ids"],
        target=logits.argmax(-1),
        logits=logits,
        relevance_word=tensors["relevance_word"],
        relevance_position=tensors["relevance_position"],
    )


def _read(stem: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(FIXTURES / f"{stem}.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def _weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "weights."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _rebuild(metadata: dict[str, str], weights: dict[str, Tensor], attn_implementation: str) -> nn.Module:
    """Build the transformers model that the metadata describes, in float64, and load every weight strictly."""
    config_class = getattr(transformers, metadata["config_class"])
    config = config_class(**json.loads(metadata["config"]), use_cache=False, attn_implementation=attn_implementation)
    with torch.random.fork_rng():
        model = getattr(transformers, metadata["model_class"])(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # A tied output layer is stored once, as the input embeddings.
    tied = set(missing) == {"lm_head.weight"} and config.tie_word_embeddings
    if unexpected or (missing and not tied):
        raise ValueError(f"the weights do not fit {type(model).__name__}: {missing=}, {unexpected=}")
    model.tie_weights()
    return model.eval().double()
