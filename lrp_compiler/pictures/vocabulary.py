"""What token pictures ask of a tokenizer, of transformers or of tokenizers: pieces as text, and where words start."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lrp_compiler.base.errors import InputError

_JOINED = {
    "wordpiece": (("a", "##b"), "ab"),
    "bytes": (("a", "Ġb"), "a b"),
    "word-end": (("a</w>", "b</w>"), "a b"),
}
"""Kinds of vocabularies: what the tokenizer itself makes of two tokens. Any other writes a space as ▁."""
_MARKS = {"wordpiece": ("##s", "##e"), "bytes": ("Ġ", "Ċ", "ĉ"), "word-end": ("s</w>", "e</w>")}
"""Of a tokenizer that cannot put tokens together: tokens that only such a vocabulary holds."""


class Vocabulary:
    """The tokens of a tokenizer.

    Args:
        tokenizer: of transformers, or a `tokenizers.Tokenizer`.

    Attributes:
        special: ids of special tokens.
        size: how many tokens there are, without those added later.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._token: Callable[[int], str | None]
        self._decode: Callable[[list[int]], str]
        if hasattr(tokenizer, "convert_ids_to_tokens"):
            added, self.special = getattr(tokenizer, "added_tokens_decoder", {}), set(tokenizer.all_special_ids)
            self._token, self._id = tokenizer.convert_ids_to_tokens, tokenizer.convert_tokens_to_ids
            self._decode = partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            self.size = int(tokenizer.vocab_size)
        elif hasattr(tokenizer, "id_to_token"):
            added, self.special = tokenizer.get_added_tokens_decoder(), set()
            self._token, self._id = tokenizer.id_to_token, tokenizer.token_to_id
            self._decode = partial(tokenizer.decode, skip_special_tokens=False)
            self.size = int(tokenizer.get_vocab_size(with_added_tokens=False))
        else:
            raise InputError(f"A tokenizer of transformers or of tokenizers is wanted, not {type(tokenizer).__name__}.")
        self.special |= {number for number, token in added.items() if token.special}
        self._kind, self._prefix = self._kind_of(getattr(tokenizer, "backend_tokenizer", tokenizer), tokenizer)

    def written(self, number: int) -> str:
        """The token as the vocabulary has it; `<7>` where it has none."""
        return self._token(number) or f"<{number}>"

    def piece(self, number: int) -> str:
        """The token as text: what stands for a space is one; `##` stays, since it says that a word goes on."""
        token = self.written(number)
        if number in self.special:
            return token
        if self._kind == "bytes":
            text = self._decode([number])
            return token if "�" in text else text  # a part of a character
        return token.replace("▁", " ").replace("</w>", " ") if self._kind in ("spaces", "word-end") else token

    def word(self, numbers: Sequence[int]) -> str:
        """Several pieces as one text."""
        if self._kind == "bytes" and len(numbers) > 1:
            return self._decode(list(numbers))
        first, *rest = map(self.piece, numbers)
        return first + "".join(piece.removeprefix(self._prefix) for piece in rest)

    def starts_word(self, before: int | None, number: int) -> bool:
        """Whether a piece starts a word; special tokens stand alone."""
        if before is None or before in self.special or number in self.special:
            return True
        if self._kind in ("wordpiece", "words"):
            return self._kind == "words" or not self.written(number).startswith(self._prefix)
        return self.piece(number)[:1].isspace() or self.piece(before)[-1:].isspace()

    def _kind_of(self, backend: Any, tokenizer: Any) -> tuple[str, str]:
        """The kind of vocabulary, and what a piece begins with that goes on with a word.

        It is asked of the tokenizer's decoder, else of its model, else read off the vocabulary.
        """
        decoder, model = getattr(backend, "decoder", None), getattr(backend, "model", None)
        prefix = getattr(decoder, "prefix", None) or getattr(model, "continuing_subword_prefix", None) or "##"
        join = getattr(tokenizer, "convert_tokens_to_string", None) or getattr(decoder, "decode", None)
        for kind, (tokens, text) in _JOINED.items():
            if _text(join, [token.replace("##", prefix) for token in tokens]) == text:
                return kind, prefix
        kind = type(model).__name__ if decoder is None else ""
        if kind == "WordPiece":
            return "wordpiece", prefix
        if kind == "WordLevel" and _split(backend.pre_tokenizer, "a b") == ["a", "b"]:
            return "words", prefix
        known = (kind for kind, marks in _MARKS.items() if all(map(self._known, marks)))
        return next(known, "spaces") if decoder is None else "spaces", prefix

    def _known(self, token: str) -> bool:
        number = self._id(token)
        return number is not None and self._token(number) == token


def _text(join: Callable[[list[str]], str] | None, tokens: list[str]) -> str:
    """What a decoder makes of tokens, which its vocabulary need not hold; "" where it makes nothing of them."""
    try:
        return "" if join is None else join(tokens)
    except Exception:
        return ""


def _split(pre_tokenizer: Any, text: str) -> list[str]:
    return [] if pre_tokenizer is None else [part for part, _ in pre_tokenizer.pre_tokenize_str(text)]
