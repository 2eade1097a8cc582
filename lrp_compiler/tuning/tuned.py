"""What `tune` found: every setting with its score, and what may be concluded from so many inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.tables import as_html, as_text, plain_table
from lrp_compiler.rules.composite import Composite

RESAMPLES = 2000
LEVEL = 0.95
SPLITS = 500
FEW = 10
"""Inputs below which intervals are rough."""


@dataclass(frozen=True)
class Interval:
    """A mean over inputs, and where it lies with 95 % confidence: percentiles of the bootstrap over inputs."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """`0.3120 (0.2801 to 0.3449)`."""
        return f"{self.mean:z.4f} ({self.low:z.4f} to {self.high:z.4f})"


def bootstrap(samples: np.ndarray, seed: int = 0) -> Interval:
    """The mean of `samples`, one number an input, and its interval; NaN if one is. A seed always draws the same."""
    count = len(samples)
    if np.isnan(samples).any():
        return Interval(*[float("nan")] * 3)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    return Interval(float(samples.mean()), *map(float, np.percentile(draws @ samples / count, tails)))


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting of the composite's options.

    Args:
        options: the values of the options that were tuned; None: as the composite has them, which is several values.
        composite: with these options.
        aggregate: values over which relevance was summed; (): its own was taken.
        samples: ABPC of each input, float64 `[inputs]`; NaN where relevance was not finite.
        score: their mean, with its interval; NaN if any is.
        gain: the mean difference to the default's, input by input, with its interval.
        fractions: the share of features that is replaced, float64 `[points]`.
        morf: mean over inputs of the measure, most relevant features first: float64 `[points]`.
        lerf: the same, least relevant first.
    """

    options: dict[str, Any]
    composite: Composite
    aggregate: tuple[str, ...]
    samples: np.ndarray
    score: Interval
    gain: Interval
    fractions: np.ndarray
    morf: np.ndarray
    lerf: np.ndarray

    @property
    def failed(self) -> list[int]:
        """Places in `samples` of the inputs whose relevance was not finite."""
        return [int(place) for place in np.flatnonzero(np.isnan(self.samples))]

    def __str__(self) -> str:
        """`gamma=0.25: ABPC 0.3120 (0.2801 to 0.3449)`."""
        return f"{as_words(self.options)}: ABPC {self.score}"


def as_words(options: Mapping[str, Any]) -> str:
    """`conv=0.25, linear=0.05`."""
    return ", ".join(f"{name}={shown(value)}" for name, value in options.items())


def shown(value: Any) -> str:
    """A value in a table."""
    return "as given" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, eq=False)
class Tuned:
    """What `tune` found: a table with its findings when printed.

    Args:
        trials: every setting that was tried; the default first.
        inputs: numbers of the inputs that were measured, in the order of the trials' samples.
        left_out: numbers of the inputs that were not: the model's own answer is not finite, with all features or with
            all replaced, or there is no feature to replace.
        unused: options of the default grid that change nothing in this model and were left as they are.
        seed: of everything that is drawn.
        refused: a sentence for each setting of the default grid that does not fit this model.
        reference: what composites of differences compared with, for `explainer(x, reference=…)`: of the input whose
            features were replaced, `[1, …]`, or `[inputs, …]` where it differs from input to input.
    """

    trials: tuple[Trial, ...]
    inputs: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    unused: tuple[str, ...] = ()
    seed: int = 0
    refused: tuple[str, ...] = ()
    reference: Any = None

    @property
    def default(self) -> Trial:
        """The composite's own options."""
        return self.trials[0]

    @cached_property
    def best(self) -> Trial:
        """The trial of the largest mean, the earlier one of equals; only trials that are finite on every input."""
        return max((trial for trial in self.trials if not trial.failed), key=lambda trial: trial.score.mean)

    @property
    def composite(self) -> Composite:
        """The best one, for `lrp.compile(composite=…)`."""
        return self.best.composite

    @property
    def aggregate(self) -> tuple[str, ...]:
        """The values over which the best one sums relevance, for `lrp.compile(aggregate=…)`; () where it does not."""
        return self.best.aggregate

    @property
    def options(self) -> dict[str, Any]:
        """The best values of the options that were tuned."""
        return self.best.options

    @property
    def score(self) -> Interval:
        """ABPC of the best; the largest of several, so on other inputs expect less: see `held_out_gain`."""
        return self.best.score

    @property
    def clearly_better(self) -> bool:
        """Whether the best one's gain over the default is above 0: its interval, input by input, and what is left of it
        on inputs that the choice has not seen."""
        return self.best.gain.low > 0 and not self.held_out_gain <= 0

    @cached_property
    def held_out_gain(self) -> float:
        """What tuning gains over the default on inputs that it has not seen: the mean over 500 random halves of the
        inputs, the best setting of one half measured on the other. NaN with fewer than four inputs, or without a
        finite default."""
        samples = np.stack([trial.samples for trial in self.trials if not trial.failed])
        count = samples.shape[1]
        if count < SMALLEST_SPLIT or self.default.failed:
            return float("nan")
        generator, gains = np.random.default_rng(self.seed), []
        for _ in range(SPLITS):
            order = generator.permutation(count)
            seen, unseen = samples[:, order[: count // 2]].mean(1), samples[:, order[count // 2 :]].mean(1)
            gains.append(unseen[seen.argmax()] - unseen[0])
        return float(np.mean(gains))

    def curve(self, option: str | None = None) -> list[tuple[Any, Interval]]:
        """ABPC along one option, the others as in the best: (value, score), by value.

        Args:
            option: its name; not needed where there is one only.

        Raises:
            InputError: there is no such option, or there are several and none was named.
        """
        names = list(self.options)
        if option is None and len(names) == 1:
            option = names[0]
        if option not in names:
            raise InputError(f"Say along which option, one of {', '.join(names)}: not {option!r}.")
        others = {name: value for name, value in self.options.items() if name != option}
        line = [trial for trial in self.trials if trial.options.items() >= others.items()]
        return sorted(((trial.options[option], trial.score) for trial in line), key=lambda point: _order(point[0]))

    @property
    def notes(self) -> list[str]:
        """What may be concluded, and what may not: one sentence each."""
        found = [self._verdict(), *self._edges()]
        if not self.score.low > 0:
            found.append(f"The best ABPC, {self.score}, is not clearly above 0, which is what a random order gives.")
        for option in self.unused:
            found.append(f"{option} changes nothing in this model and was not tuned.")
        found += self.refused
        failing = [as_words(trial.options) for trial in self.trials if trial.failed]
        if failing:
            rows = sorted({self.inputs[place] for trial in self.trials for place in trial.failed})
            found.append(
                f"Relevance is not finite, so the setting cannot be chosen: {'; '.join(failing)} (on inputs "
                f"{_listed(rows)})."
            )
        if self.best.composite.differences:
            found.append(
                "It compares with the input whose features are all replaced: give explainer(x, reference=…) what "
                "replaces them (`reference` of this result), or the same kind of it."
            )
        if self.left_out:
            found.append(
                f"Left out: inputs {_listed(self.left_out)}, on which the model's own answer is not finite or nothing "
                "can be replaced."
            )
        if len(self.inputs) < FEW:
            found.append(f"{counted(len(self.inputs), 'input is|inputs are')} few: the intervals are rough.")
        return found

    def _verdict(self) -> str:
        if self.best is self.default:
            return f"The default is the best of {counted(len(self.trials), 'setting')}."
        gain = f"{as_words(self.options)} gains {self.best.gain} over the default"
        unseen = f"{self.held_out_gain:z.4f} on inputs that the choice has not seen"
        if self.default.failed:
            return f"The best of those that are finite is {as_words(self.options)}."
        return f"{gain}; {unseen}." if self.clearly_better else f"No setting is clearly better: {gain}; {unseen}."

    def _edges(self) -> list[str]:
        notes = []
        for option, value in self.options.items():
            tried = [trial.options[option] for trial in self.trials]
            numbers = sorted({each for each in tried if isinstance(each, (int, float))})
            # Below 0 there is nothing.
            if len(numbers) > 1 and value in (numbers[-1], numbers[0] or None):
                end = "largest" if value == numbers[-1] else "smallest"
                notes.append(f"{option}={shown(value)} is the {end} value tried: a wider grid may hold a better one.")
        return notes

    def table(self) -> Any:
        """Every setting as a rich table: its options, ABPC and gain over the default, with 95 % intervals."""
        table = plain_table(
            title=f"composite {self.composite.name}, {counted(len(self.inputs), 'input')}", title_justify="left"
        )
        for name in (*self.options, "ABPC", "gain over the default", ""):
            table.add_column(name)
        for trial in self.trials:
            marks = [word for word, one in (("best", self.best), ("default", self.default)) if one is trial]
            gain = "" if trial is self.default else str(trial.gain)
            cells = [*map(shown, trial.options.values()), str(trial.score), gain, ", ".join(marks)]
            table.add_row(*cells, style="bold" if trial is self.best else None)
        return table

    def __str__(self) -> str:
        """The table as text, and the notes."""
        return "\n".join([as_text(self.table()), *self.notes])

    def _repr_html_(self) -> str:
        return as_html(self.table()) + "".join(f"<p>{note}</p>" for note in self.notes)


SMALLEST_SPLIT = 4


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then names; what stands for several values comes first."""
    return (isinstance(value, str), -1.0 if value is None else value)


def _listed(numbers: Sequence[int], most: int = 10) -> str:
    return ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
