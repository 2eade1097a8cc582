"""Does the relevance of an answer lie on the words of the context that it was taken from?

SmolLM2-135M-Instruct is asked questions whose answer stands in their context. Explained is the logit of the token that
it thinks likeliest, which is the first of its answer. Measured are only the questions where that token is the first of
the answer's span with the context and is not without it: what the model knows by heart it need not read.

    top-1          whether the most relevant token of the whole prompt lies in the span
    top-2 IoU      the two most relevant tokens and the span: what they share, as a share of what they are together
    … in context   the same where only the context's tokens compete
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.faithful import questions
from benchmarks.faithful.interface import say
from benchmarks.faithful.metrics import values_row
from benchmarks.faithful.questions import Asked
from benchmarks.faithful.text_methods import Batch, Network, rows_of

NAME, TITLE = "smollm2_questions", "SmolLM2-135M-Instruct on questions"
SEED = 0
QUICK_QUESTIONS = 12
DRAWS = 16


def top(relevance: np.ndarray, count: int) -> set[int]:
    """Places of the `count` most relevant tokens."""
    return set(np.argsort(-relevance, kind="stable")[:count].tolist())


def overlap(first: set[int], second: set[int]) -> float:
    """Intersection over union."""
    return len(first & second) / len(first | second)


def values(asked: Sequence[Asked], relevance: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The metrics by name, each one number a question."""
    rows = []
    for one, found in zip(asked, relevance, strict=True):
        span = set(np.flatnonzero(one.answer).tolist())
        both = found, np.where(one.context, found, -np.inf)
        rows.append([score for r in both for score in (top(r, 1) <= span, overlap(top(r, 2), span))])
    names = ("top-1", "top-2 IoU", "top-1 in context", "top-2 IoU in context")
    return dict(zip(names, np.array(rows, np.float64).T, strict=True))


def best_overlap(asked: Sequence[Asked]) -> float:
    """The mean top-2 IoU that cannot be surpassed: a span has one token or many, not always two."""
    lengths = np.array([one.answer.sum() for one in asked])
    return float((np.minimum(lengths, 2) / np.maximum(lengths, 2)).mean())


def of_questions(methods: Sequence[str], quick: bool) -> Iterator[dict[str, Any]]:
    """Questions that the model answers from the context."""
    say("load SmolLM2-135M-Instruct")
    tokenizer, model, configuration = questions.smollm2()
    everything = [questions.asked(question, tokenizer) for question in questions.questions()]
    everything = everything[:: len(everything) // QUICK_QUESTIONS] if quick else everything
    said = questions.said(model, everything)
    right = [one for one, answer in zip(everything, said, strict=True) if answer.with_context == one.first]
    asked = [
        one
        for one, answer in zip(everything, said, strict=True)
        if answer.with_context == one.first and answer.without != one.first
    ]
    sequence = {1: torch.export.Dim("sequence", max=2048)}
    network = Network(
        "questions",
        model,
        reference=int(tokenizer.eos_token_id),
        draws=DRAWS,
        shapes={"input_ids": sequence, "attention_mask": sequence},
        configuration=configuration,
    )
    batches = []
    for one in asked:
        ids = torch.from_numpy(one.input_ids)[None]
        batches.append(Batch(ids, torch.ones_like(ids), torch.tensor([one.first])))
    about = (
        f"{len(everything)} questions, {len(right)} answered rightly, {len(asked)} of these not without the context; "
        f"the logit of the answer's first token; no IoU can be above {best_overlap(asked):.2f}"
    )
    head = {"model": NAME, "metric": "answer", "title": TITLE, "about": about}
    for row, relevance in rows_of(head, network, batches, methods):
        yield row if relevance is None else row | values_row(values(asked, relevance), SEED, "answer")
