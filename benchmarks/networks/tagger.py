"""A bidirectional LSTM that says which words of a lower-cased text began with a capital, trained in seconds.

The text is Python's own manual (`pydoc_data.topics`), which every Python has. What a word begins with depends on it
(`Python`), and on whether a sentence begins there: on what stands in front.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

WORDS, LENGTH, BATCH, STEPS = 2000, 24, 64, 600
UNKNOWN = 0


class Text(NamedTuple):
    """A text in tokens: ids, which of them began with a capital, and the vocabulary by id."""

    ids: Tensor
    capital: Tensor
    vocabulary: list[str]


def manual() -> Text:
    """Python's manual, words and other characters apart."""
    from pydoc_data.topics import topics

    tokens = [token for topic in topics.values() for token in re.findall(r"[A-Za-z]+|[^\sA-Za-z]", topic)]
    lower = [token.lower() for token in tokens]
    vocabulary = ["<unknown>", *(token for token, _ in Counter(lower).most_common(WORDS - 1))]
    number = {token: at for at, token in enumerate(vocabulary)}
    ids = torch.tensor([number.get(token, UNKNOWN) for token in lower])
    return Text(ids, torch.tensor([token[0].isupper() for token in tokens]).long(), vocabulary)


class Tagger(nn.Module):
    """ids `[batch, length]` → logits `[batch, length, 2]`: small, capital."""

    def __init__(self, words: int = WORDS, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.tag = nn.Linear(2 * width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        read, _ = self.lstm(self.words(ids))
        return torch.as_tensor(self.tag(read))


def trained(text: Text, steps: int = STEPS, seed: int = 0) -> tuple[Tagger, float]:
    """A tagger trained on the first nine tenths, and how many words of the rest it tags rightly."""
    torch.manual_seed(seed)
    model = Tagger()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    border = len(text.ids) * 9 // 10
    for _ in range(steps):
        starts = torch.randint(0, border - LENGTH, (BATCH, 1)) + torch.arange(LENGTH)
        loss = nn.functional.cross_entropy(model(text.ids[starts]).flatten(0, 1), text.capital[starts].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    rest = slice(border, border + (len(text.ids) - border) // LENGTH * LENGTH)
    said = model(text.ids[rest].reshape(-1, LENGTH)).argmax(-1).flatten()
    word = torch.tensor([token.isalpha() for token in text.vocabulary])[text.ids[rest]]
    return model, float((said == text.capital[rest])[word].float().mean())


def first_words(text: Text, count: int, before: int = 12, behind: int = 8) -> Tensor:
    """Windows of the last tenth in which an ordinary word begins a sentence, `[count, before + 1 + behind]`.

    Ordinary: a word that is mostly small elsewhere. The full stop is at `before − 1`, the word at `before`.
    """
    border = len(text.ids) * 9 // 10
    stop = text.vocabulary.index(".")
    often = torch.zeros(len(text.vocabulary)).index_add(0, text.ids, text.capital.float())
    often = often / torch.bincount(text.ids, minlength=len(text.vocabulary)).clamp(min=1)
    windows = []
    for at in range(border + before, len(text.ids) - behind):
        begins = text.ids[at - 1] == stop and text.capital[at] and text.ids[at] != UNKNOWN and often[text.ids[at]] < 0.3
        if begins:
            windows.append(text.ids[at - before : at + behind + 1])
        if len(windows) == count:
            break
    return torch.stack(windows)
