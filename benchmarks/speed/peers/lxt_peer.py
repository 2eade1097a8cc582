"""LXT 2.1 with transformers 4.52.4: classes patched before the model is made, then gradient × input.

RoBERTa is not among its models: BERT of the same sizes takes its place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.networks import torchvision_operators  # noqa: F401  # lxt imports torchvision

# isort: split
import torch
from lxt.efficient import monkey_patch, monkey_patch_zennit
from torch import nn
from zennit.composites import LayerMapComposite
from zennit.rules import Gamma

from benchmarks.networks.architectures import CLASSES, LLAMA3_ROPE, draw_parameters, from_config
from benchmarks.speed.cases import Case
from benchmarks.speed.peers.gradient import gradient_times_input
from benchmarks.speed.peers.networks import for_gradients, network

PATCHED = {
    "vit_b_16": "torchvision.models.vision_transformer",
    "bert": "transformers.models.bert.modeling_bert",
    "roberta_large": "transformers.models.bert.modeling_bert",
    "llama": "transformers.models.llama.modeling_llama",
}
ROBERTA_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 50265,
    "type_vocab_size": 1,
    "num_labels": CLASSES,
}


def make(name: str, case: Case, folder: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    torch.set_num_threads(threads)
    key = case.network.partition("/")[0]
    if case.composite == "attnlrp-gamma":
        monkey_patch_zennit()
    monkey_patch(importlib.import_module(PATCHED[key]))
    model = MODELS.get(key, plain)(case)
    if case.composite == "attnlrp-gamma":
        LayerMapComposite([(nn.Conv2d, Gamma(0.25)), (nn.Linear, Gamma(0.05))]).register(model)
    return gradient_times_input(model)


def plain(case: Case) -> nn.Module:
    return for_gradients(network(case.network))


def bert_of_roberta_size(case: Case) -> nn.Module:
    model = from_config("BertForSequenceClassification", "BertConfig", **ROBERTA_LARGE)(1, None, None)
    draw_parameters(model.eval(), 0)
    return model.requires_grad_(False)


def llama(case: Case) -> nn.Module:
    """transformers 4 has another name for the frequencies of Llama 3."""
    model: Any = plain(case)
    rope = importlib.import_module(PATCHED["llama"]).LlamaRotaryEmbedding
    model.config.rope_theta, model.config.rope_scaling = LLAMA3_ROPE["rope_theta"], LLAMA3_ROPE
    model.model.rotary_emb = rope(config=model.config)
    module: nn.Module = model
    return module


MODELS: dict[str, Callable[[Case], nn.Module]] = {"roberta_large": bert_of_roberta_size, "llama": llama}
