"""Which tokens made each token of an answer: a matrix, from torch and from onnxruntime alike. Torch-free.

explanation = explainer.answer(tokenizer, "The capital of France is", " Paris.")
explanation.matrix                        # [answer tokens, all tokens]; 0 where a token does not stand before
explanation.by("sentence").matrix         # [answer's sentences, all sentences]: sums
explanation.hops(2).html("answer.html")   # what answer tokens got is sent on through them, twice; a page to look at
"""

from __future__ import annotations

import html
import importlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import FormatError, InputError, LrpError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.base.version import __version__

Part = Literal["prompt", "start", "answer"]
"""Of what a token is: the prompt, what starts a decoder, or the answer."""
Level = Literal["token", "word", "sentence", "span"]
ENDS = (".", "!", "?", "…", "。", "！", "？", ":")
"""What a sentence ends with, quotation marks and brackets apart; a line break ends one, too."""
CLOSING = "\"'”’»)]*"
SCHEMA = 1


class Piece(NamedTuple):
    """A token, or several side by side."""

    text: str
    ids: tuple[int, ...]
    tokens: tuple[int, ...]
    """Their numbers in the text, from 0; of an encoder–decoder the encoder's come first."""
    part: Part
    starts_word: bool = True
    special: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class AnswerExplanation:
    """What made each part of an answer.

    Args:
        rows: the explained parts of the answer: tokens, words, sentences or spans.
        columns: all parts of the text, in order: the prompt's, then the answer's.
        matrix: float64 `[rows, columns]`: relevance of each column for each row; 0 where it does not stand before.
        scores: float64 `[rows]`: what each row scored (its logit, say), summed over its tokens; of differences, how
            much more than behind the prompt that it is compared with.
        put: float64 `[rows]`: what was put on each row and is accounted for: its score; 1 for each token under
            composites that put 1.
        heading: composite and target, in words.
        level: what rows and columns are.
        hopped: how many times relevance of answer tokens was sent on.
    """

    rows: tuple[Piece, ...]
    columns: tuple[Piece, ...]
    matrix: np.ndarray
    scores: np.ndarray
    put: np.ndarray
    heading: str
    level: Level = "token"
    hopped: int = 0

    @property
    def prompt(self) -> np.ndarray:
        """The part of the matrix that the prompt got, `[rows, its columns]`."""
        return self.matrix[:, [piece.part != "answer" for piece in self.columns]]

    @property
    def absorbed(self) -> np.ndarray:
        """Of each row, what no token got: `put` − Σ relevance: constants, stabilisers, the softmax's Taylor share."""
        return np.asarray(self.put - self.matrix.sum(1))

    @property
    def sink(self) -> np.ndarray:
        """What the first token of the text got of each row, `[rows]`: language models rest their attention on it when
        nothing else matters. It is a part of the matrix; of an encoder–decoder the first of each side counts."""
        return np.asarray(self.matrix[:, self.first].sum(1))

    @property
    def first(self) -> list[int]:
        """The columns that hold the first token; of an encoder–decoder that of each side."""
        starts = {0} | {at for at, piece in enumerate(self.columns) if piece.part == "start"}
        return sorted(starts)

    @boundary("send relevance on")
    def hops(self, count: int) -> AnswerExplanation:
        """Send what landed on answer tokens on through them, so many times.

        With `P` and `Q` the matrix's part of the answer's tokens and of all others, and `s` what was put on each token:
        a hop seeds the score of token j with the relevance that it got, which the same program would explain as
        `weights[j] = P[i, j] / s[j]`. So k hops give

            Q_k = Σ_{h ≤ k} (P · diag(1/s))^h · Q,    P_k = (P · diag(1/s))^k · P.

        P is 0 on and above the diagonal: as many hops as there are answer tokens leave nothing on them. What a token's
        own explanation absorbs is absorbed of what is sent through it; a token whose score is 0 passes nothing on.

        Args:
            count: 0 and more.

        Raises:
            InputError: it is no such number, or rows and columns are no tokens.
        """
        number = whole_number(count)
        check_option("hops", count, number is not None and number >= 0, "a whole number from 0 up")
        if self.level != "token":
            raise InputError(f"Relevance hops from token to token, not by {self.level}: call hops() before.")
        own = {piece.tokens: at for at, piece in enumerate(self.columns)}
        answer = [own[row.tokens] for row in self.rows]
        rest = [at for at in range(len(self.columns)) if at not in set(answer)]
        P, Q = self.matrix[:, answer], self.matrix[:, rest]
        share = np.divide(P, self.put, out=np.zeros_like(P), where=self.put != 0)
        # What is left on the answer's tokens, and what the others have got.
        left, got = P, Q
        moving = share
        for _ in range(number or 0):
            got, left = got + moving @ Q, moving @ P
            moving = np.divide(left, self.put, out=np.zeros_like(P), where=self.put != 0)
        matrix = np.zeros_like(self.matrix)
        matrix[:, answer], matrix[:, rest] = left, got
        return replace(self, matrix=matrix, hopped=self.hopped + (number or 0))

    @boundary("sum relevance up")
    def by(self, level: Literal["word", "sentence"]) -> AnswerExplanation:
        """Sums over words or sentences, of the answer (rows) and of all the text (columns).

        Words begin where the tokenizer's pieces begin with a space or a special token stands; sentences end with a full
        stop and the like, and at line breaks. Neither runs from the prompt into the answer.

        Args:
            level: "word" or "sentence".

        Raises:
            InputError: another level, or rows are no tokens.
        """
        check_option("by(…)", level, level in ("word", "sentence"), "'word' or 'sentence'")
        if self.level != "token":
            raise InputError(f"The sums are by {self.level} already: start from the tokens.")
        words = _cuts(self.columns, lambda before, piece: piece.starts_word)
        cuts = words if level == "word" else _sentences(self.columns, words)
        groups = [range(first, last) for first, last in pairwise([*cuts, len(self.columns)])]
        own = {piece.tokens: at for at, piece in enumerate(self.rows)}
        parts = [[own[self.columns[at].tokens] for at in group if self.columns[at].tokens in own] for group in groups]
        grouped = self._summed([part for part in parts if part], level)
        columns = tuple(_merged([self.columns[at] for at in group]) for group in groups)
        sums = [grouped.matrix[:, list(group)].sum(1) for group in groups]
        return replace(grouped, columns=columns, matrix=np.stack(sums, 1))

    @boundary("sum the rows up")
    def spans(self, *spans: Sequence[int] | slice) -> AnswerExplanation:
        """One row for each span of the answer: the sum of its rows, which is what weights of 1 there explain.

        Args:
            spans: numbers of rows: a range, a slice or a list each.

        Raises:
            InputError: none is given, or there is no such row.
        """
        numbers = np.arange(len(self.rows))
        chosen = []
        for span in spans:
            try:
                chosen.append([int(at) for at in numbers[span if isinstance(span, slice) else list(span)]])
            except (IndexError, TypeError) as error:
                raise InputError(f"A span is a range of rows, 0 to {len(numbers) - 1}, not {span!r}.") from error
        if not chosen or not all(chosen):
            raise InputError("A span has one row of the answer at least, and one span at least is wanted.")
        return self._summed(chosen, "span")

    def _summed(self, groups: Sequence[Sequence[int]], level: Level) -> AnswerExplanation:
        rows = tuple(_merged([self.rows[at] for at in group]) for group in groups)

        def sums(values: np.ndarray) -> np.ndarray:
            return np.stack([values[list(group)].sum(0) for group in groups])

        return replace(
            self, rows=rows, matrix=sums(self.matrix), scores=sums(self.scores), put=sums(self.put), level=level
        )

    @boundary("write the page")
    def html(self, path: str | os.PathLike[str] | None = None, *, title: str = "") -> str:
        """A page that shows it: an answer token that is pointed at lights its sources. One file, no outside request.

        Args:
            path: where to write it; None: nowhere.
            title: of the page.

        Returns:
            The page.
        """
        from lrp_compiler.pictures.answer_page import answer_page
        from lrp_compiler.pictures.offline import written

        return written(answer_page(self, title), path)

    @boundary("make a table")
    def to_pandas(self) -> Any:
        """The matrix as a pandas DataFrame: rows and columns by number and text.

        Raises:
            LrpError: pandas is not there.
        """
        try:
            pd: Any = importlib.import_module("pandas")
        except ImportError as error:
            raise LrpError(
                "A table needs pandas: pip install pandas; .matrix, .rows and .columns do without."
            ) from error
        index, columns = (
            pd.MultiIndex.from_tuples([(piece.tokens[0], piece.text) for piece in pieces], names=["token", "text"])
            for pieces in (self.rows, self.columns)
        )
        return pd.DataFrame(self.matrix, index=index, columns=columns)

    @boundary("save the explanation")
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it as JSON, which `AnswerExplanation.load` reads. The file appears whole or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), ensure_ascii=False), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        plain = {key: getattr(self, key) for key in ("heading", "level", "hopped")}
        arrays = {key: getattr(self, key).tolist() for key in ("matrix", "scores", "put")}
        pieces = {key: [piece._asdict() for piece in getattr(self, key)] for key in ("rows", "columns")}
        return {"schema": SCHEMA, "version": __version__, **plain, **arrays, **pieces}

    @classmethod
    @boundary("load the explanation")
    def load(cls, path: str | os.PathLike[str]) -> AnswerExplanation:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            FormatError: it is no such file.
        """
        values: dict[str, Any] = {}
        with open(path, encoding="utf-8") as file:
            try:
                data = json.load(file)
                for key in ("rows", "columns"):
                    values[key] = tuple(
                        Piece(**{**piece, "ids": tuple(piece["ids"]), "tokens": tuple(piece["tokens"])})
                        for piece in data[key]
                    )
                values |= {key: np.array(data[key], np.float64) for key in ("matrix", "scores", "put")}
                values |= {key: data[key] for key in ("heading", "level", "hopped")}
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(f"{os.fspath(path)!r} holds no explanation of an answer.") from error
        sizes = len(values["rows"]), len(values["columns"])
        if values["matrix"].shape != sizes or not values["scores"].shape == values["put"].shape == sizes[:1]:
            raise FormatError(f"{os.fspath(path)!r} holds a matrix that is not of its tokens.")
        return cls(**values)

    def __repr__(self) -> str:
        """How large it is."""
        unit = "" if self.level == "token" else f" by {self.level}"
        return f"AnswerExplanation({len(self.rows)} × {len(self.columns)}{unit}; {self.heading})"

    def _repr_html_(self) -> str:
        page = html.escape(self.html(), quote=True)
        # As tall as the page that it shows, where that is not very long.
        grow = "if(this.contentDocument)this.style.height=this.contentDocument.documentElement.scrollHeight+48+'px'"
        size = "width:100%;height:32em;max-height:64em;border:0"
        return f'<iframe srcdoc="{page}" style="{size}" onload="{grow}"></iframe>'


def _cuts(pieces: Sequence[Piece], starts: Callable[[Piece, Piece], bool]) -> list[int]:
    """Where groups begin: at the parts' borders, and where `starts` says so of a piece and the one before it."""
    return [
        at
        for at, piece in enumerate(pieces)
        if not at or piece.part != pieces[at - 1].part or starts(pieces[at - 1], piece)
    ]


def _sentences(pieces: Sequence[Piece], words: Iterable[int]) -> list[int]:
    """Where sentences begin: at words behind the end of one."""
    begins = set(words)

    def ended(before: Piece) -> bool:
        return "\n" in before.text or before.special or before.text.rstrip().rstrip(CLOSING).endswith(ENDS)

    numbers = {piece.tokens: at for at, piece in enumerate(pieces)}
    return _cuts(pieces, lambda before, piece: numbers[piece.tokens] in begins and (ended(before) or piece.special))


def _joined(pieces: Sequence[Piece]) -> str:
    """Their text; between words a space, where the tokenizer leaves it to the reader (WordPiece)."""
    text = pieces[0].text
    for before, piece in pairwise(pieces):
        apart = piece.starts_word and not (before.special or piece.special)
        space = " " if apart and not (before.text[-1:].isspace() or piece.text[:1].isspace()) else ""
        text += space + (piece.text if piece.starts_word else piece.text.removeprefix("##"))
    return text


def _merged(pieces: Sequence[Piece]) -> Piece:
    return Piece(
        _joined(pieces),
        tuple(number for piece in pieces for number in piece.ids),
        tuple(number for piece in pieces for number in piece.tokens),
        pieces[0].part,
        pieces[0].starts_word,
        all(piece.special for piece in pieces),
    )
