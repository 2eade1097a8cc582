"""Tiny language models with random weights, in float64, by name; with inputs that are padded on either side."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

VOCABULARY = 40
WIDE: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "head_dim": 8}
DEEP: dict[str, Any] = {**WIDE, "num_hidden_layers": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
PLAIN: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=32, **PLAIN)),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**{**DEEP, "num_hidden_layers": 1}, **PLAIN)),
    "gemma3": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**DEEP, sliding_window=4, **PLAIN)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**DEEP, **PLAIN)),
    "mamba": lambda: tf.MambaForCausalLM(tf.MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, **PLAIN)),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0, **PLAIN)
    ),
    "bart": lambda: tf.BartForConditionalGeneration(
        tf.BartConfig(**BART, **HEADS, decoder_start_token_id=2, forced_eos_token_id=None, **PLAIN)
    ),
}
TWO_SIDED = ("t5", "bart")
"""Those with an encoder."""
COMPOSITE = {"mamba": "cp-lrp"}
STATIC = ("mamba",)
"""Those that are compiled for one length."""


@cache
def language_model(name: str) -> Any:
    """The model, livelier than it is initialised."""
    torch.manual_seed(0)
    model: Any = MODELS[name]().double().eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() > 1 and "A_log" not in path:
                parameter.normal_(0, 0.3)
    return model


def texts(name: str, padded: str, sequence: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """Two rows, the second two tokens shorter where they are padded, on the "left" or "right"."""
    draw = torch.Generator().manual_seed(seed)

    def text(length: int) -> tuple[Tensor, Tensor]:
        ids, mask = torch.randint(3, VOCABULARY, (2, length), generator=draw), torch.ones(2, length, dtype=torch.int64)
        mask[1, slice(2) if padded == "left" else slice(length - 2, None)] = 0
        return ids * mask, mask

    ids, mask = text(sequence)
    if name not in TWO_SIDED:
        return {"input_ids": ids, "attention_mask": mask}
    wrote, _ = text(5)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": wrote.clamp_min(3)}


def dims(name: str, inputs: dict[str, Tensor]) -> dict[str, dict[int, Any]]:
    """Batch and lengths open."""
    batch, sequence, decoder = (torch.export.Dim(each, max=32) for each in ("batch", "sequence", "decoder_sequence"))
    if name in STATIC:
        return {key: {0: batch} for key in inputs}
    return {key: {0: batch, 1: decoder if key.startswith("decoder") else sequence} for key in inputs}
