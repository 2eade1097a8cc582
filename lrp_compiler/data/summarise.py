"""What a data set's explanations have in common, class by class: places, tokens, and groups of alike heatmaps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.progress import row_bar
from lrp_compiler.base.seal import file_digest
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.pictures.summary_page import summary_page

from .moments import Moments
from .outcome import Outcome, Rows

REPORT = "summary.html"
SAMPLE, IN_ALL = 500, 20_000
"""Maps of a class that are grouped, at most, and of all classes together, about."""
TOKENS, SEVERAL = 12, 5
"""Tokens that are listed on either side, and rows in which one stands at least."""
EXAMPLES = 3


@dataclass(frozen=True)
class Token:
    """A token of a class's texts.

    Args:
        token: as the tokenizer writes it, or its number.
        rows: in which it stands.
        mean: of its relevance in a row, where it may stand several times.
        margin: half of the mean's 95 % interval.
    """

    token: str
    rows: int
    mean: float
    margin: float


@dataclass(frozen=True)
class Group:
    """Heatmaps of a class that are alike.

    Args:
        share: of the class's maps that were looked at.
        mean: of the group.
        examples: ids of the maps that are most like the mean, and these maps.
        ids: of all that were looked at.
    """

    share: float
    mean: np.ndarray
    examples: list[tuple[object, np.ndarray]]
    ids: list[object]


@dataclass(frozen=True)
class OfClass:
    """What holds for the rows of a class.

    Args:
        number: of the class; −1 where none is explained.
        name: of the class.
        rows: that were explained.
        relevance: mean of Σ relevance, and half of its 95 % interval.
        absorbed: mean of what else took a share; None where the explainer does not say.
        mean: of pictures and numbers: relevance of each place, or of each cell of 32 × 32.
        margin: half of each mean's 95 % interval.
        tokens_for: of texts: tokens that speak for the class, the surest first.
        tokens_against: likewise, against it.
        groups: of alike heatmaps, the largest first; empty where nothing was grouped.
        apart: how clearly the groups differ, −1 to 1 (mean silhouette).
        eigenvalues: of the graph of alike maps, the smallest.
        outliers: ids and maps of rows that are like no other, the farthest first.
    """

    number: int
    name: str
    rows: int
    relevance: tuple[float, float]
    absorbed: float | None
    mean: np.ndarray | None = None
    margin: np.ndarray | None = None
    tokens_for: list[Token] = field(default_factory=list)
    tokens_against: list[Token] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    apart: float = 0.0
    eigenvalues: list[float] = field(default_factory=list)
    outliers: list[tuple[object, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """Of a data set.

    Args:
        folder: of the explanations.
        input: whose relevance it is.
        composite: of the explainer.
        rows: that were explained.
        classes: those whose maps fall into groups most clearly first, then those with most rows.
        report: the page.
    """

    folder: Path
    input: str
    composite: str
    rows: int
    classes: list[OfClass]
    report: Path

    def to_dict(self) -> dict[str, Any]:
        """As plain data: maps as nested lists, of examples and outliers the ids alone."""
        return {**_plain(asdict(self)), "folder": str(self.folder), "report": str(self.report)}


@boundary("summarise the explanations")
def summarise(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    input: str | None = None,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    clusters: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Summary:
    """Say what the explanations of a data set have in common, and write a page of it: one file, offline.

    Memory does not grow with the data: means are added up, and groups are found among at most 500 maps of a class,
    drawn by chance. Intervals are of the mean over rows, by the normal distribution; where many tokens or places are
    looked at, one in twenty lies outside by chance.

    Args:
        folder: the output of `explain`, complete or not.
        output: of the page; by default `summary.html` in the folder.
        input: whose relevance; by default the only one's.
        labels: the classes' names.
        tokenizer: of texts: the `tokenizer.json` that they were cut by, for the tokens' names.
        clusters: whether heatmaps are grouped (spectral relevance analysis) and outliers looked for; needs
            scikit-learn.
        seed: of what is drawn.
        progress: whether a bar on stderr shows the rows.

    Raises:
        InputError: the folder holds no explanations, or of a kind that cannot be summed up; an option does not fit.
        OSError: a file cannot be read or written.
    """
    check_option("clusters", clusters, isinstance(clusters, bool), "True or False")
    check_option("seed", seed, (whole_number(seed) if seed is not None else None) is not None, "a whole number")
    outcome = Outcome(folder, input)
    names = _token_names(outcome, tokenizer)
    counts = outcome.classes()
    if not counts:
        raise InputError(f"No row of {folder} was explained: there is nothing to sum up.")
    most = min(SAMPLE, max(IN_ALL // len(counts), EXAMPLES)) if clusters and not outcome.is_text else 0
    found = {number: _Class(most) for number in sorted(counts, key=lambda number: (-counts[number], number))}
    random = np.random.default_rng(seed)
    with row_bar(sum(counts.values()), progress) as advance:
        for rows in outcome.read():
            drawn = random.random(len(rows.ids))
            for number in np.unique(rows.classes):
                found[int(number)].add(rows, np.flatnonzero(rows.classes == number), drawn)
            advance(len(rows.ids))
    made = [one.summary(number, _label(number, labels), names, seed) for number, one in found.items()]
    made.sort(key=lambda one: -one.apart)
    report = Path(output) if output is not None else outcome.folder / REPORT
    composite = str(outcome.manifest.get("composite", ""))
    summary = Summary(outcome.folder, outcome.input, composite, sum(counts.values()), made, report)
    with atomic_path(report) as temporary:
        temporary.write_text(summary_page(summary, done="done" in outcome.manifest), encoding="utf-8")
    return summary


class _Class:
    """What is added up of one class.

    Args:
        most: maps that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sums, self._absorbed = Moments.of(1), Moments.of(1)
        self._places: Moments | None = None
        self._tokens = Moments.of(0)
        self._shape: tuple[int, ...] = ()
        self._drawn, self._maps, self._ids = np.zeros(0), np.zeros((0, 0), np.float32), np.zeros(0, object)

    def add(self, rows: Rows, places: np.ndarray, drawn: np.ndarray) -> None:
        """Add some of the rows; of all maps those are kept that drew the smallest numbers."""
        if rows.absorbed is not None:
            self._absorbed.add(rows.absorbed[places, None])
        if rows.maps is None:
            self._add_texts([rows.tokens[place] for place in places])
            return
        maps = rows.maps[places]
        self._shape = maps.shape[1:]
        flat = maps.reshape(len(maps), -1)
        self._sums.add(flat.sum(1, keepdims=True))
        self._places = self._places or Moments.of(flat.shape[1])
        self._places.add(flat)
        ids = np.empty(len(places), object)
        ids[:] = [rows.ids[place] for place in places]
        self._drawn = np.concatenate([self._drawn, drawn[places]])
        kept = np.argsort(self._drawn, kind="stable")[: self._most]
        self._drawn = self._drawn[kept]
        before = self._maps if self._maps.size else self._maps.reshape(0, flat.shape[1])
        self._maps = np.concatenate([before, flat.astype(np.float32)])[kept]
        self._ids = np.concatenate([self._ids, ids])[kept]

    def _add_texts(self, texts: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """A token counts once in a row, with all that it got there."""
        ids, values = [], []
        for tokens, relevance in texts:
            once, places = np.unique(tokens, return_inverse=True)
            ids.append(once)
            values.append(np.bincount(places.reshape(-1), relevance.astype(np.float64), len(once)))
        self._tokens.add_at(np.concatenate(ids), np.concatenate(values))
        self._sums.add(np.array([[one.sum()] for one in values]))

    def summary(self, number: int, name: str, names: Mapping[int, str], seed: int) -> OfClass:
        """All of it."""
        relevance = float(self._sums.mean[0]), float(self._sums.margin[0])
        absorbed = float(self._absorbed.mean[0]) if self._absorbed.count[0] else None
        about = OfClass(number, name, int(self._sums.count[0]), relevance, absorbed)
        if self._places is None:
            speak_for, against = (self._sure(sign, names) for sign in (1, -1))
            return _with(about, tokens_for=speak_for, tokens_against=against)
        mean, margin = (values.reshape(self._shape) for values in (self._places.mean, self._places.margin))
        return _with(about, mean=mean, margin=margin, **(self._grouped(seed) if self._most else {}))

    def _sure(self, sign: int, names: Mapping[int, str]) -> list[Token]:
        """The tokens whose interval is farthest from 0 on one side."""
        tokens = self._tokens
        bound = np.where(tokens.count >= SEVERAL, sign * tokens.mean - tokens.margin, -np.inf)
        order = [int(place) for place in np.argsort(-bound, kind="stable")[:TOKENS] if bound[place] > 0]
        return [
            Token(names.get(one, str(one)), int(tokens.count[one]), float(tokens.mean[one]), float(tokens.margin[one]))
            for one in order
        ]

    def _grouped(self, seed: int) -> dict[str, Any]:
        from .spectral import groups

        found, maps = groups(self._maps, seed), self._maps.reshape(-1, *self._shape)
        made = []
        for label in range(int(found.labels.max(initial=-1)) + 1):
            places = np.flatnonzero(found.labels == label)
            mean = self._maps[places].mean(0)
            size = np.linalg.norm(self._maps[places], axis=1)
            near = places[np.argsort(-(self._maps[places] @ mean) / np.where(size > 0, size, 1), kind="stable")]
            examples = [(self._ids[place], maps[place]) for place in near[:EXAMPLES]]
            share = len(places) / len(self._maps)
            made.append(Group(share, mean.reshape(self._shape), examples, list(self._ids[places])))
        outliers = [(self._ids[place], maps[place]) for place in found.outliers[: 2 * EXAMPLES]]
        eigenvalues = [float(value) for value in found.eigenvalues]
        return {"groups": made, "apart": found.apart, "eigenvalues": eigenvalues, "outliers": outliers}


def _with(about: OfClass, **more: Any) -> OfClass:
    return OfClass(about.number, about.name, about.rows, about.relevance, about.absorbed, **more)


def _label(number: int, labels: Sequence[str] | Mapping[int, str] | None) -> str:
    if number < 0:
        return "all rows"
    try:
        return f"class {number}" if labels is None else str(labels[number])
    except LookupError as error:
        raise InputError(f"The labels have no name for class {number}.") from error


def _token_names(outcome: Outcome, path: str | os.PathLike[str] | None) -> Mapping[int, str]:
    """Number → token, as the tokenizer writes it."""
    if path is None:
        return {}
    if not outcome.is_text:
        raise InputError(f"A tokenizer was given, but relevance is of {outcome.input!r}, which is no text.")
    cut_by = outcome.manifest.get("preparation", {}).get("tokenizer")
    if cut_by is not None and cut_by != file_digest(path):
        raise InputError(f"The texts were cut by another tokenizer than {os.fspath(path)}.")
    from .text import Tokenizer

    return Tokenizer(path, None, None).names


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if name != "folder" and name != "report"}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        return value[0]  # an example or an outlier
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value
