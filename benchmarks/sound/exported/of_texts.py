"""Networks of texts and of sequences: transformers' types, tiny, and torch's own layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.networks.architectures.weights import draw_parameters

from .subject import ATTENTION, Subject

WORDS = 99
TINY = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"intermediate_size": 48, "max_position_embeddings": 64}


class Logits(nn.Module):
    """Token ids and a mask in, logits out: what a user exports of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """`[batch, length]` twice."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class TwoTexts(nn.Module):
    """The same of a model with a decoder."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Any:
        """`[batch, length]` twice."""
        return self.model(input_ids=input_ids, decoder_input_ids=decoder_input_ids).logits


class Sequence(nn.Module):
    """A layer of sequences `[batch, length, 8]`, and a dense one on what is left of them."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.layer, self.classes = layer, nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Any:
        """Its last step, or that of its first result."""
        y = self.layer(x)
        return self.classes((y[0] if isinstance(y, tuple) else y)[:, -1])


def _built(class_name: str, options: Mapping[str, Any]) -> nn.Module:
    import transformers

    kind = getattr(transformers, class_name)
    config = kind.config_class(**options)
    config.use_cache = False
    model = kind(config).eval()
    draw_parameters(model, 0)
    return model


def _ids(batch: int, length: int) -> Tensor:
    return torch.randint(4, 90, (batch, length))


def _text(class_name: str, position: Any = None, **options: Any) -> Callable[[], Subject]:
    def make(batch: int, length: int) -> tuple[Tensor, Tensor]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[-1, length - 2 :] = 0
        return _ids(batch, length), mask

    def build() -> Subject:
        names = ("input_ids", "attention_mask")
        target = 1 if position is None else lrp.Target(1, position=position)
        return Subject(Logits(_built(class_name, options)).eval(), make, names, names, target, since=ATTENTION)

    return build


def _two_texts(class_name: str, **options: Any) -> Callable[[], Subject]:
    def build() -> Subject:
        names = ("input_ids", "decoder_input_ids")
        model = TwoTexts(_built(class_name, options)).eval()
        return Subject(
            model,
            lambda batch, length: (_ids(batch, length), _ids(batch, length)),
            names,
            names,
            lrp.Target(1, position="last"),
            since=ATTENTION,
        )

    return build


def _layer(make: Callable[[], nn.Module], features: int, length: int) -> Callable[[], Subject]:
    def build() -> Subject:
        model = Sequence(make(), features).eval()
        draw_parameters(model, 0, 1.0)
        return Subject(model, lambda batch, given: (torch.randn(batch, length, 8),), since=ATTENTION)

    return build


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


LLAMA = {**TINY, "num_key_value_heads": 2}
TEXTS: Mapping[str, Callable[[], Subject]] = {
    "transformers/bert": _text("BertForSequenceClassification", **TINY),
    "transformers/distilbert": _text(
        "DistilBertForSequenceClassification",
        vocab_size=WORDS,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=64,
    ),
    "transformers/albert": _text("AlbertForSequenceClassification", **TINY, embedding_size=16),
    "transformers/electra": _text("ElectraForSequenceClassification", **TINY, embedding_size=16),
    "transformers/roberta": _text("RobertaForSequenceClassification", **TINY),
    "transformers/deberta_v2": _text(
        "DebertaV2ForSequenceClassification",
        **TINY,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
    ),
    "transformers/gpt2": _text(
        "GPT2LMHeadModel", "last", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64
    ),
    "transformers/llama": _text("LlamaForCausalLM", "last", **LLAMA),
    "transformers/qwen3": _text("Qwen3ForCausalLM", "last", **LLAMA, head_dim=8),
    "transformers/gpt_neox": _text("GPTNeoXForCausalLM", "last", **TINY),
    "transformers/opt": _text(
        "OPTForCausalLM",
        "last",
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    "transformers/t5": _two_texts(
        "T5ForConditionalGeneration",
        vocab_size=WORDS,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
    ),
    "transformers/bart": _two_texts(
        "BartForConditionalGeneration",
        vocab_size=WORDS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
    ),
    "torch/lstm": _layer(partial(nn.LSTM, 8, 12, 2, batch_first=True, bidirectional=True), 24, 6),
    "torch/gru": _layer(partial(nn.GRU, 8, 12, batch_first=True), 12, 6),
    "torch/transformer_encoder": _layer(_encoder, 8, 9),
}
