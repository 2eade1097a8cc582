"""Questions whose answer of several tokens stands in one sentence of a longer context.

evidence_texts.json holds what they are made of: eight kinds of texts, each with two facts that can be asked for in
three wordings, and with sentences that say other things; and made-up names, so that nothing is known by heart. A
context has the sentence that holds the answer (in every fifth of it as often), sentences that say the same of others,
what else is said of the one who is asked about, and others around them. The answer stands in it once. The prompt begins
the answer's sentence: left alone, a model of this size begins with something else.

Question n is the same whatever else is made: its draws are its own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = Path(__file__).resolve().with_name("evidence_texts.json")
SEED = 0
WORDS = (*[(130, 190)] * 8, (190, 380), (190, 380), *[(130, 190)] * 7, (190, 380), (190, 380), (400, 1050))
"""Fewest and most words of a context, of twenty questions in turn; a word has 1.4 tokens or so."""
PLACES = 5
"""The sentence that holds the answer lies in each fifth of the context in turn."""


class Question(NamedTuple):
    """A context in sentences, which of them holds the answer, a question about it, and how its answer begins."""

    number: int
    kind: str
    sentences: tuple[str, ...]
    supporting: int
    question: str
    lead: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"{' '.join(self.sentences)}\n\nQuestion: {self.question}\nAnswer: {self.lead}"


def questions() -> Iterator[Question]:
    """One after the other, without an end."""
    texts = json.loads(TEXTS.read_text(encoding="utf-8"))
    return (_question(number, texts) for number in count())


def _question(number: int, texts: Mapping[str, Any]) -> Question:
    draw = random.Random(f"{SEED} {number}")
    name = list(texts["kinds"])[number % len(texts["kinds"])]
    kind = texts["kinds"][name]
    words = draw.randint(*WORDS[number % len(WORDS)])
    subject, *others = draw.sample(kind["subjects"], len(kind["subjects"]))
    asked, besides = draw.sample(kind["relations"], 2)
    values = {each: iter(draw.sample(_values(each, texts), len(others) + 1)) for each in ("person", "place", "thing")}
    answer = next(values[asked["value"]])
    holds = _said(draw.choice(asked["says"]), subject, answer)

    def fact(relation: Mapping[str, Any], of: str) -> str:
        return _said(draw.choice(relation["says"]), of, next(values[relation["value"]]))

    # Of the same kind; then what else is said of the one who is asked about; then whatever else there is.
    around = [fact(asked, other) for other in others[: min(3 + words // 150, len(others))]]
    around += [fact(besides, subject), fact(besides, others[0])]
    fillers = draw.sample(kind["fillers"], len(kind["fillers"]))
    rest = [line for other in texts["kinds"].values() if other is not kind for line in other["fillers"]]
    for line in (*fillers, *draw.sample(rest, len(rest))):
        if len(" ".join((holds, *around)).split()) >= words:
            break
        around.append(_filled(line, draw, texts, answer))
    draw.shuffle(around)
    place = int(len(around) * (number % PLACES + draw.random()) / PLACES)
    sentences = (*around[:place], holds, *around[place:])
    return Question(number, name, sentences, place, asked["ask"].replace("{S}", subject), _lead(asked, subject), answer)


def _values(kind: str, texts: Mapping[str, Any]) -> list[str]:
    if kind == "person":
        return [f"{first} {last}" for first in texts["first"] for last in texts["last"]]
    return list(texts[f"{kind}s"])


def _said(template: str, subject: str, value: str) -> str:
    return _capital(template.replace("{S}", subject).replace("{V}", value))


def _lead(relation: Mapping[str, Any], subject: str) -> str:
    return _capital(relation["lead"].replace("{S}", subject))


def _filled(line: str, draw: random.Random, texts: Mapping[str, Any], answer: str) -> str:
    slots = {
        "person": draw.choice([name for name in _values("person", texts) if name != answer]),
        "place": draw.choice([place for place in texts["places"] if place != answer]),
        "year": draw.randint(1790, 1960),
        "month": draw.choice(texts["months"]),
        "number": draw.randint(12, 98),
    }
    return _capital(line.format(**slots))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


class Asked(NamedTuple):
    """A question in tokens.

    `prompt` and `answer`: ids, int64; `sentence`: of each token of the prompt the number of the sentence that it ends
    in, −1 behind the context.
    """

    question: Question
    prompt: np.ndarray
    answer: np.ndarray
    sentence: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate((self.prompt, self.answer))


def asked(question: Question, tokenizer: PreTrainedTokenizerBase) -> Asked:
    """The question in tokens."""
    encoded = tokenizer(question.prompt, return_offsets_mapping=True)
    lasts = np.array(encoded["offset_mapping"])[:, 1] - 1
    # The space behind a sentence belongs to the next one, as tokens have it.
    ends = np.cumsum([len(sentence) + 1 for sentence in question.sentences]) - 1
    sentence = np.searchsorted(ends, lasts, side="right")
    answer = tokenizer(f" {question.answer}", add_special_tokens=False)["input_ids"]
    return Asked(
        question,
        np.array(encoded["input_ids"], np.int64),
        np.array(answer, np.int64),
        np.where(sentence < len(ends), sentence, -1),
    )
