"""Relevance of tokens: (token, relevance) pairs, and their pictures as HTML, for a terminal, or drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import Labels, Run, to_numpy

from .common import choose, drawn, limit_of
from .token_rows import Piece, TokenRow, fragment_or_page, page_of
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .figure import Picture


@dataclass(frozen=True, eq=False, repr=False)
class Tokens(Sequence[TokenRow]):
    """One `TokenRow` for each row of the batch (and each of several targets); a notebook shows it."""

    rows: tuple[TokenRow, ...]

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TokenRow, ...]: ...
    def __getitem__(self, index: int | slice) -> TokenRow | tuple[TokenRow, ...]:
        """The tokens of a row."""
        return self.rows[index]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    @boundary("write the page")
    def html(self, path: str | os.PathLike[str] | None = None, *, numbers: bool = True, title: str = "") -> str:
        """A fragment of HTML, or a whole page in a file: see `TokenRow.html`."""
        return fragment_or_page(page_of(self.rows, numbers), path, title)

    def ansi(self) -> str:
        """For a terminal: see `TokenRow.ansi`."""
        return "\n\n".join([self.rows[0].heading, *(row.ansi() for row in self.rows)])

    def figure(self, title: str = "", width: float | None = None) -> Picture:
        """The tokens drawn with matplotlib.

        Args:
            title: a first line.
            width: of the picture, in inches; by default 10, and more for a text that would be much taller than that.

        Raises:
            LrpError: matplotlib is not there.
        """
        from .token_figure import token_figure

        return token_figure(self.rows, title, width)

    def __repr__(self) -> str:
        """The rows."""
        return f"{type(self).__name__}({list(self.rows)})"

    def _repr_html_(self) -> str:
        return self.html()


def tokens(
    explanation: Results[Any],
    tokenizer: Any,
    *,
    input: str | None = None,
    ids: Any = None,
    words: bool = False,
    special: bool = True,
    labels: Labels | None = None,
    rows: Iterable[int] | int | None = None,
    percentile: float = 100.0,
    limit: float | None = None,
) -> Tokens:
    """The tokens of each row with their relevance.

    Padding, as the model's attention mask has it, is left out. Where the model predicts a token, that token names the
    target.

    Args:
        explanation: of token ids `[batch, sequence]`, or of embeddings `[batch, sequence, features]` (summed up).
        tokenizer: of transformers, or a `tokenizers.Tokenizer`.
        input: whose relevance; needed where it is neither `input_ids` nor the only one of this kind.
        ids: the token ids, `[batch, sequence]`; needed with embeddings.
        words: add the pieces of a word up. Words are what spaces separate; punctuation stands alone where the tokenizer
            itself splits it off (WordPiece).
        special: keep special tokens such as [CLS]; those left out are accounted for in `left_out`.
        labels: the classes' names; default: the tokenizer's tokens where the model predicts one.
        rows: which rows of the batch; default: all.
        percentile: the colours end at this percentile of the |relevance| of each row; 100: at the largest.
        limit: the relevance at which the colours of all rows end, instead.

    Returns:
        A sequence of rows; each a sequence of pairs (token as text, relevance): `▁` and `Ġ` are the space that they
        stand for, and `##` stays.

    Raises:
        InputError: no relevance of tokens, ids of another shape, an unknown kind of tokenizer.
    """
    run, vocabulary = explanation.run, Vocabulary(tokenizer)
    name = choose(explanation, _preferred(explanation, input), "tokens, [batch, sequence]", _is_text(ids is not None))
    given = to_numpy(run.inputs[name] if ids is None else ids)
    mask = run.inputs.get(name.replace("input_ids", "attention_mask"))
    kept = np.ones(given.shape, bool) if mask is None or "input_ids" not in name else to_numpy(mask) != 0
    labels = labels or (_predicted(vocabulary) if _predicts_tokens(run, vocabulary) else None)
    result = []
    for case in drawn(explanation, rows, labels):
        relevance = explanation.of(case, name).astype(np.float64)
        relevance = relevance.reshape(len(relevance), -1).sum(-1)
        if given.ndim != 2 or given.shape[1:] != relevance.shape or len(given) <= case.row:
            raise InputError(f"The ids have shape {list(given.shape)}, relevance has {list(relevance.shape)} a row.")
        row = given[case.row].tolist()
        pieces = _pieces(row, relevance.tolist(), kept[case.row].tolist(), vocabulary, words)
        outside = {
            "padding": float(relevance[~kept[case.row]].sum()),
            "special tokens": 0.0 if special else sum(piece.relevance for piece in pieces if piece.special),
        }
        pieces = [piece for piece in pieces if special or not piece.special]
        end = limit_of(np.array([piece.relevance for piece in pieces] or [0.0]), percentile, limit)
        left_out = {what: share for what, share in outside.items() if share}
        result.append(TokenRow(case, run.heading, tuple(pieces), left_out, end))
    return Tokens(tuple(result))


def _pieces(
    ids: list[int], relevance: list[float], kept: list[bool], vocabulary: Vocabulary, words: bool
) -> list[Piece]:
    there = [(number, share) for number, share, keep in zip(ids, relevance, kept, strict=True) if keep]
    before = [None, *(number for number, _ in there)]
    starts = [vocabulary.starts_word(last, number) for last, (number, _) in zip(before, there, strict=False)]
    cuts = [at for at, start in enumerate(starts) if start or not words]
    result = []
    for first, last in pairwise([*cuts, len(there)]):
        numbers = tuple(number for number, _ in there[first:last])
        text = vocabulary.word(numbers)
        share = sum(share for _, share in there[first:last])
        result.append(Piece(text, share, numbers, starts[first], numbers[0] in vocabulary.special))
    return result


def _preferred(explanation: Results[Any], name: str | None) -> str | None:
    return "input_ids" if name is None and "input_ids" in explanation.relevance else name


def _is_text(embedded: bool) -> Any:
    return lambda shape, dtype: len(shape) in (1, 2) and (embedded or "int" in dtype)


def _predicts_tokens(run: Run, vocabulary: Vocabulary) -> bool:
    """Whether the explained output is `[batch, sequence, vocabulary]`."""
    at = run.about.explained
    shape = run.about.outputs[at].shape if at < len(run.outputs) else ()
    return len(shape) == 3 and isinstance(shape[-1], int) and shape[-1] >= vocabulary.size


def _predicted(vocabulary: Vocabulary) -> Labels:
    return lambda token: f"“{vocabulary.piece(token).strip(' ')}”"
