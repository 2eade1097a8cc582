"""What token pictures ask of a tokenizer, of transformers or of tokenizers: pieces as text, and where words start."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lrp_compiler.base.errors import InputError

_MARKS = {"wordpiece": ("##s", "##e"), "bytes": ("Ġ", "Ċ", "ĉ"), "word-end": ("s</w>", "e</w>")}
"""Kinds of vocabularies by tokens that only they hold; any other writes a space as ▁."""


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
        self._kind = next((kind for kind, marks in _MARKS.items() if all(map(self._known, marks))), "spaces")

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
        return first + "".join(piece.removeprefix("##") for piece in rest)

    def starts_word(self, before: int | None, number: int) -> bool:
        """Whether a piece starts a word; special tokens stand alone."""
        if before is None or before in self.special or number in self.special:
            return True
        if self._kind == "wordpiece":
            return not self.written(number).startswith("##")
        return self.piece(number)[:1].isspace() or self.piece(before)[-1:].isspace()

    def _known(self, token: str) -> bool:
        number = self._id(token)
        return number is not None and self._token(number) == token
