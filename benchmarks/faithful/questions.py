"""Questions whose answer stands in their context, and what SmolLM2-135M-Instruct says to them.

questions.json holds the questions: plain facts of common knowledge, written by template. A context has four sentences:
the fact that is asked for, in each place as often; two of the same kind with other answers; one of another kind. Each
answer stands in its context once and nowhere else in its prompt. The prompt begins the answer's sentence (`lead`): left
alone, a model of this size ends its turn or begins with "The".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.base.places import BUILD
from benchmarks.faithful.interface import say
from benchmarks.networks import pretrained
from lrp_compiler.base.files import atomic_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = Path(__file__).resolve().with_name("questions.json")
CACHE = BUILD / "faithfulness"


class Question(NamedTuple):
    """A context, a question about it, how its answer begins, and the words of the context that are wanted then."""

    relation: str
    context: str
    question: str
    lead: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"{self.context}\n\n{self.alone}"

    @property
    def alone(self) -> str:
        """The prompt without the context."""
        return f"Question: {self.question}\nAnswer: {self.lead}"


def questions() -> list[Question]:
    """All of the file, in its order."""
    return [Question(**row) for row in json.loads(FILE.read_text(encoding="utf-8"))]


class NextToken(nn.Module):
    """A causal language model at its last position.

    forward(input_ids, attention_mask), both int64 `[batch, sequence]`, returns the logits of the token that follows,
    float32 `[batch, vocabulary]`. `from_embeddings` takes word embeddings `[batch, sequence, features]`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def embedding(self) -> Any:
        return self.model.get_input_embeddings()  # type: ignore[operator]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.last(input_ids=input_ids, attention_mask=attention_mask)

    def from_embeddings(self, embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        return self.last(inputs_embeds=embeddings, attention_mask=attention_mask)

    def last(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits


class Asked(NamedTuple):
    """A question in tokens.

    `input_ids` int64 `[sequence]`; `answer` and `context`: which of them lie in the answer and in the context, bool
    `[sequence]`; `alone`: the ids without the context.
    """

    question: Question
    input_ids: np.ndarray
    answer: np.ndarray
    context: np.ndarray
    alone: np.ndarray

    @property
    def first(self) -> int:
        """The id of the answer's first token, as it stands in the context."""
        return int(self.input_ids[self.answer][0])


def asked(question: Question, tokenizer: PreTrainedTokenizerBase) -> Asked:
    """The question in tokens; a token that shares a character with the answer lies in it."""
    encoded = tokenizer(question.prompt, return_offsets_mapping=True)
    starts, ends = np.array(encoded["offset_mapping"]).T
    start = question.context.index(question.answer)
    alone = tokenizer(question.alone)["input_ids"]
    return Asked(
        question,
        np.array(encoded["input_ids"], np.int64),
        (starts < start + len(question.answer)) & (ends > start),
        starts < len(question.context),
        np.array(alone, np.int64),
    )


class Said(NamedTuple):
    """The id of the token that the model thinks likeliest, with the context and without it."""

    with_context: int
    without: int


@torch.inference_mode()
def said(model: NextToken, found: list[Asked]) -> list[Said]:
    """What the model says to each, question by question; computed once, then read from `CACHE`."""
    key = hashlib.sha256(b"".join(one.input_ids.tobytes() for one in found)).hexdigest()[:16]
    path = CACHE / f"answers-{key}.json"
    if path.exists():
        return [Said(*pair) for pair in json.loads(path.read_text(encoding="utf-8"))]

    def likeliest(ids: np.ndarray) -> int:
        tokens = torch.from_numpy(ids)[None]
        return int(model(tokens, torch.ones_like(tokens)).argmax())

    answers = []
    for at, one in enumerate(found):
        say(f"ask question {at + 1} of {len(found)}")
        answers.append(Said(likeliest(one.input_ids), likeliest(one.alone)))
    CACHE.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(answers), encoding="utf-8")
    return answers


def smollm2() -> tuple[PreTrainedTokenizerBase, NextToken, Mapping[str, Any]]:
    """Tokenizer, model, and its configuration as plain data, in the names of transformers 4."""
    tokenizer, model = pretrained.smollm2()
    of: Any = model.config
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "max_position_embeddings rms_norm_eps tie_word_embeddings hidden_act"
    )
    configuration = {name: getattr(of, name) for name in names.split()}
    configuration["rope_theta"] = of.rope_parameters["rope_theta"]
    return tokenizer, NextToken(model).eval().requires_grad_(False), configuration
