"""Texts as token ids, and what a text's inputs are filled up with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.specs import TensorSpec

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
ENCODED = {IDS: "ids", MASK: "attention_mask", TYPES: "type_ids"}
KINDS = tuple(ENCODED)
TEXT = "text"
"""The column of texts."""
TOKENS = 512
"""Of a text, at most, if nobody says otherwise."""


def text_inputs(inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Input → its kind, of the inputs that hold a text: whole numbers `[batch, sequence]` under their usual names.

    A single input of that shape may be called as it likes.
    """
    fits = [spec for spec in inputs if spec.dtype in ("int64", "int32", "bool") and len(spec.shape) == 2]
    named = {spec.name: kind for spec in fits for kind in KINDS if spec.name == kind or spec.name.endswith(f".{kind}")}
    if not named and len(inputs) == 1 and fits:
        return {fits[0].name: IDS}
    return named


def may_be_filled_up(about: Metadata, kinds: Mapping[str, str]) -> bool:
    """Whether texts of different lengths can lie in one batch: there is a mask for what is filled up, and what is
    explained does not stand at the last place."""
    if MASK not in kinds.values() or about.explains_answer or about.explained >= len(about.outputs):
        return False
    anywhere = len(about.outputs[about.explained].shape) == 2
    return anywhere or about.explains.get("position") in ("last-unpadded", "index")


def length_bounds(about: Metadata, spec: TensorSpec) -> tuple[int | None, int | None]:
    """How many tokens an explainer takes, at least and at most; None where it does not say."""
    dim = spec.shape[1]
    return (dim, dim) if isinstance(dim, int) else about.ranges.get(dim, (None, None))


def is_unicode(text: str) -> bool:
    """Whether a text can be written down: JSON can hold halves of characters."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


class Tokenizer:
    """A model's tokenizer.

    Args:
        path: of its `tokenizer.json`.
        most: how many tokens a text has at most; None: where the tokenizer cuts, or `TOKENS`.
        taken: how many the explainer takes at most.

    Raises:
        InputError: the file is none.
    """

    def __init__(self, path: str | os.PathLike[str], most: int | None, taken: int | None) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(os.fspath(path))
        except Exception as error:  # tokenizers raises plain Exceptions
            said = f"{os.fspath(path)} is no tokenizer.json as Hugging Face's fast tokenizers write it"
            raise InputError(f"{said} ({reason_of(error)}).") from error
        self.names: dict[int, str] = {number: name for name, number in self._tokenizer.get_vocab().items()}
        cut = dict(self._tokenizer.truncation or {})
        known = cut.pop("max_length", None) or TOKENS
        self.most = min(number for number in (most or known, taken) if number is not None)
        self.pad = int((self._tokenizer.padding or {}).get("pad_id", 0))
        self._tokenizer.no_padding()
        added = self._tokenizer.num_special_tokens_to_add(False)
        if self.most <= added:
            raise InputError(
                f"max_length is {self.most}, and the tokenizer adds {added} tokens to every text: take {added + 1} at "
                "least."
            )
        self._tokenizer.enable_truncation(self.most, **cut)

    def __call__(
        self, texts: Sequence[Any], wanted: Mapping[str, tuple[str, str]], errors: dict[int, str]
    ) -> dict[str, list[np.ndarray | None]]:
        """Input → of each text its numbers; a row that is no text is written down among the errors.

        Args:
            texts: of some rows.
            wanted: input → its kind and dtype.
            errors: place → what is wrong with a row.
        """
        sound = []
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                errors.setdefault(place, f"A text is wanted, not {type(text).__name__}.")
            elif not is_unicode(text):
                errors.setdefault(place, "The text has half a character (a surrogate alone), which is no Unicode.")
            else:
                sound.append(place)
        found: dict[str, list[np.ndarray | None]] = {name: [None] * len(texts) for name in wanted}
        encoded = self._tokenizer.encode_batch_fast([texts[place] for place in sound])
        stops = np.cumsum([len(one) for one in encoded], dtype=np.int64).tolist()
        for name, (kind, dtype) in wanted.items():
            if kind == MASK:  # nothing is filled up here
                flat = np.ones(stops[-1] if stops else 0, dtype)
            else:
                numbers = chain.from_iterable(getattr(one, ENCODED[kind]) for one in encoded)
                flat = np.fromiter(numbers, dtype)
            for place, (start, stop) in zip(sound, pairwise([0, *stops]), strict=True):
                found[name][place] = flat[start:stop]
        for place, one in zip(sound, encoded, strict=True):
            if not len(one):
                errors.setdefault(place, "The text has no tokens.")
        return found
