"""The text models: token flipping of film reviews here, questions about a context in `answers`.

Token flipping follows pixel flipping: the words of a review are replaced by [MASK], the most relevant first (MoRF) or
the least relevant first (LeRF), and the classifier is asked again after each step. [MASK] is the token by which BERT
was taught that something stands here that it isn't told, and no review holds it; [UNK] would say that the word is a
rare one. The special tokens [CLS] and [SEP] stay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.faithful import answers, reviews
from benchmarks.faithful.interface import say
from benchmarks.faithful.metrics import Curves, flipping_row
from benchmarks.faithful.text_methods import METHODS, Batch, Network, rows_of, session_options

SEED = 0
STEPS = 12
REVIEWS, QUICK_REVIEWS = 600, 50
DRAWS = 16
ROWS = 32
"""Reviews at once, of similar length."""

# ── flipping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def flip_times(relevance: np.ndarray, steps: int, generator: np.random.Generator) -> np.ndarray:
    """The step (1 … `steps`) at which each of n tokens goes when the most relevant go first: int64 `[n]`.

    The tokens are spread over the steps as evenly as their number allows. Ties are broken by chance.
    """
    count = len(relevance)
    shuffled = generator.permutation(count)
    times = np.empty(count, np.int64)
    times[shuffled[np.argsort(-relevance[shuffled], kind="stable")]] = np.arange(count) * steps // count + 1
    return times


def flipped(ids: np.ndarray, times: np.ndarray, steps: int, replacement: int) -> np.ndarray:
    """A review `[sequence]` after each step: `[steps + 1, sequence]`; its first and last token stay."""
    gone = np.zeros((steps + 1, len(ids)), bool)
    gone[:, 1:-1] = times <= np.arange(steps + 1)[:, None]
    return np.where(gone, replacement, ids)


class Classifier:
    """Class probabilities of token sequences, in onnxruntime; a sequence that it has seen is not run again.

    Args:
        model: takes `input_ids` and `attention_mask`.
        rows: sequences at once.
    """

    def __init__(self, model: torch.nn.Module, rows: int = 64) -> None:
        self.rows, self.known = rows, dict[bytes, np.ndarray]()
        # Two tensors: of one that is given twice the exporter makes one input.
        inputs = {name: torch.ones(2, 8, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
        size = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            shapes = dict.fromkeys(inputs, size)
            torch.onnx.export(model, kwargs=inputs, f=path, dynamo=True, dynamic_shapes=shapes, verbose=False)
            self.session = onnxruntime.InferenceSession(path, session_options())

    def __call__(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities `[n, classes]` of n sequences of int64 ids."""
        new = {ids.tobytes(): ids for ids in sequences if ids.tobytes() not in self.known}
        todo = sorted(new.values(), key=len)
        for start in range(0, len(todo), self.rows):
            chosen = todo[start : start + self.rows]
            ids, mask = padded(chosen)
            (logits,) = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
            probabilities = torch.from_numpy(logits).double().softmax(-1).numpy()
            self.known |= {one.tobytes(): row for one, row in zip(chosen, probabilities, strict=True)}
        return np.stack([self.known[ids.tobytes()] for ids in sequences])


def padded(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of sequences of different lengths, int64 `[n, longest]`: padded by 0 at their ends."""
    mask = np.arange(max(map(len, sequences))) < np.array([len(ids) for ids in sequences])[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(sequences)
    return ids, mask.astype(np.int64)


def curves(
    classify: Callable[[Sequence[np.ndarray]], np.ndarray],
    sequences: Sequence[np.ndarray],
    relevance: Sequence[np.ndarray],
    labels: np.ndarray,
    replacement: int,
    steps: int = STEPS,
) -> tuple[Curves, Curves]:
    """Probability of the class predicted for the intact review, and whether the prediction is right, at every step.

    Args:
        classify: the model: sequences → probabilities `[n, classes]`.
        sequences: the reviews' ids, special tokens included.
        relevance: of each review's tokens, likewise.
        labels: the right classes, `[reviews]`.
        replacement: the id that flipped tokens get.
        steps: how many flips.
    """
    generator = np.random.default_rng(SEED)
    stacks = []
    for ids, values in zip(sequences, relevance, strict=True):
        times = flip_times(values[1:-1], steps, generator)
        stacks += [flipped(ids, order, steps, replacement) for order in (times, steps + 1 - times)]
    said = classify([ids for stack in stacks for ids in stack]).reshape(len(sequences), 2, steps + 1, -1)
    predicted = said[:, 0, 0].argmax(-1)
    probability = np.take_along_axis(said, predicted[:, None, None, None], -1)[..., 0]
    accuracy = (said.argmax(-1) == labels[:, None, None]).astype(np.float64)
    return Curves(*probability.swapaxes(0, 1)), Curves(*accuracy.swapaxes(0, 1))


# ── reviews ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def batches_of(model: reviews.ReviewClassifier, sequences: Sequence[np.ndarray]) -> list[Batch]:
    """`ROWS` sequences at a time, and the classes that the model predicts for them."""
    found = []
    for start in range(0, len(sequences), ROWS):
        ids, mask = map(torch.from_numpy, padded(sequences[start : start + ROWS]))
        with torch.inference_mode():
            target = model(ids, mask).argmax(-1)
        found.append(Batch(ids, mask, target.clone()))
    return found


def of_reviews(methods: Sequence[str], quick: bool) -> Iterator[dict[str, Any]]:
    """Held-out reviews, flipped."""
    say("load the classifier of reviews")
    tokenizer, model, held_out, accuracy, trained_on = reviews.trained(quick)
    encoded = [np.array(tokenizer(review.text)["input_ids"], np.int64) for review in held_out]
    chosen = sorted(range(len(held_out))[: QUICK_REVIEWS if quick else REVIEWS], key=lambda at: len(encoded[at]))
    sequences, labels = [encoded[at] for at in chosen], np.array([held_out[at].label for at in chosen])
    size = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    mask_id = int(tokenizer.mask_token_id)
    network = Network(
        "reviews",
        model,
        reference=mask_id,
        draws=DRAWS,
        shapes={"input_ids": size, "attention_mask": size},
        configuration={name: getattr(model.encoder.config, name) for name in BERT},
    )
    about = (
        f"Rotten Tomatoes, fine-tuned here on {trained_on:,} reviews, {accuracy:.1%} right on {len(held_out):,} held "
        f"out; the logit of the predicted class, words replaced by [MASK]"
    )
    head = {"model": "minilm_reviews", "metric": "flipping", "title": MODELS["minilm_reviews"].title, "about": about}
    classify = Classifier(model)
    for row, relevance in rows_of(head, network, batches_of(model, sequences), methods):
        if relevance is None:
            yield row
            continue
        say(f"flip by {row['method']}")
        yield row | flipping_row(*curves(classify, sequences, relevance, labels, mask_id), SEED)


BERT = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id"),
)
"""What a BERT of the same sizes is built from."""

# ── the models ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Model:
    """A model by its title, how it is measured, and by which methods (under `--quick`: by which few)."""

    title: str
    measure: Callable[[Sequence[str], bool], Iterator[dict[str, Any]]]
    methods: tuple[str, ...]
    quick: tuple[str, ...] = ()
    metric: str = "flipping"


MODELS: dict[str, Model] = {
    "minilm_reviews": Model(
        "MiniLM on film reviews",
        of_reviews,
        tuple(name for name in METHODS if name != "lxt cp-lrp"),  # LXT has none for BERT
        ("attnlrp", "gradient-x-input", "random"),
    ),
    answers.NAME: Model(
        answers.TITLE,
        answers.of_questions,
        tuple(name for name in METHODS if not name.startswith("lxt attnlrp-gamma")),  # some 20 s a question
        metric="answer",
    ),
}
SAME = {name: method.same for name, method in METHODS.items() if method.same}
"""Methods of peers that compute what one of ours computes."""


def measure(name: str, methods: Sequence[str] | None, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each method, as soon as it is measured (see the package's docstring)."""
    model = MODELS[name]
    yield from model.measure(methods or (model.quick if quick else model.methods), quick)
