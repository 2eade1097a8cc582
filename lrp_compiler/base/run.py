"""What was run, and what exactly was explained: the facts below every picture. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .metadata import FUNCTION, Metadata

Labels = Sequence[str] | Mapping[int, str] | Callable[[int], str]
"""The classes' names by number."""
Class = int | tuple[int, int]
"""A class, or a pair: the first minus the second."""
SHARES = 1e-3
"""By how much a row of probabilities may miss 1: float16's rounding."""
TOLD = 0.5
"""Where so large a share of what was explained is in no input, or more, a caption says so."""


@dataclass(frozen=True, eq=False)
class Run:
    """What was run and what came out, by reference: nothing is copied.

    Args:
        about: what the explainer's file says about it: composite, target, seed, ….
        inputs: the model's own inputs by name.
        outputs: the model's own outputs by name, flat.
        choices: `target`, `position` and `seed`, those that the explainer takes at run time.
        conditions: how many came in front of what was given of them, or of masks and seeds; None: there is no such dim.
    """

    about: Metadata
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    choices: Mapping[str, Any]
    conditions: int | None = None

    @property
    def composite(self) -> str:
        """The composite's name."""
        return self.about.name

    @property
    def heading(self) -> str:
        """What holds for every row: `composite epsilon-plus, target argmax`, and the seed unless it is the logit."""
        seed, reduce = self.about.seed, self.about.reduce
        by = [f"seed {seed}"] * (seed != "value") + [f"reduced by {', '.join(reduce)}"] * bool(reduce)
        return ", ".join([f"composite {self.composite}, target {self.about.target}", *by])

    @property
    def several(self) -> int | None:
        """How many targets relevance has in front of the batch; None: there is no such dim."""
        if self.about.several is not None:
            return self.about.several
        chosen = None if self.about.explains_answer else self.choices.get("target")
        return len(chosen) if chosen is not None and len(chosen.shape) == 2 else self.conditions

    def logits(self) -> np.ndarray | None:
        """The explained output, float64 `[batch, classes]`; None where a function of the outputs is explained, or what
        tokens of a text score."""
        number = self.about.explained
        if self.about.target == FUNCTION or self.about.explains_answer or number >= len(self.outputs):
            return None
        z = to_numpy(list(self.outputs.values())[number]).astype(np.float64)
        if z.ndim <= 2:
            return z.reshape(len(z) if z.ndim else 1, -1)
        given = self.about.explains.get("class_dim")
        z = np.moveaxis(z, (-1 if z.ndim == 3 else 1) if given is None else given, -1)
        position = self.about.explains.get("position")
        if position == "index":
            return z[np.arange(len(z)), to_numpy(self.choices["position"])]
        if position == "last-unpadded":
            mask = next(to_numpy(mask) for name, mask in self.inputs.items() if name.endswith("attention_mask"))
            return z[np.arange(len(z)), ((mask != 0) * np.arange(mask.shape[1])).argmax(1)]
        return _at(z, position)

    def classes(self) -> list[list[Class | None]]:
        """What is explained: for each target (one, unless there are several) the class of every row.

        None: no class, but a function of the outputs, tokens of a text, or a seed given at run time.
        """
        z = self.logits()
        picks = self.about.picks if isinstance(self.about.picks, list) else [self.about.picks]
        if z is None or self.about.seed == "tensor" or self.about.picks is None:
            rows = len(next(iter(self.outputs.values()))) if z is None else len(z)
            return [[None] * rows for _ in range(self.several or 1)]
        if picks == ["index"]:
            chosen = to_numpy(self.choices["target"])
            found: list[list[Class | None]] = [[int(number) for number in row] for row in chosen.reshape(-1, len(z))]
            return found * ((self.several or 1) // len(found))
        return [[_picked(pick, row) for row in z] for pick in picks] * (self.conditions or 1)


@dataclass(frozen=True)
class Explained:
    """One explained value: a row of the batch, and of several targets one.

    Args:
        row: number of the row.
        number: which of several targets; None where relevance has no dim for them.
        target: the class, or a pair (the first minus the second); None for a function of the outputs, tokens of a text,
            or a seed.
        name: that class in words, `espresso (class 967)`.
        logit: its logit (or what `kind` says), or the difference of two; None where there is no class, and where the
            model returns only probabilities.
        relevance: what each input got, summed, by name.
        probability: what a model without logits returns of it, in words: `probability 0.97`.
        kind: what the model returns for each class: its "logit", "probability" or "log-probability".
        put: what was put on it, where the logit or 1 was; None where that is not all, or differences are explained.
    """

    row: int
    number: int | None
    target: Class | None
    name: str
    logit: float | None
    relevance: dict[str, float]
    probability: str = ""
    kind: str = "logit"
    put: float | None = None

    @property
    def elsewhere(self) -> str:
        """`9.149, 99.99 %, went elsewhere: …`: of what was put on it what no input has; "" where that is little.

        Biases, constants and stabilisers absorb it (`audit` says how much each), or inputs that nobody asked for.
        """
        if not self.put or abs(left := self.put - self.sum) < TOLD * abs(self.put):
            return ""
        share = left / self.put
        part = f", {100 * share:.4g} %," * (0 < share <= 1)
        return f"{number(left)}{part} went elsewhere: to biases, constants, stabilisers"

    @property
    def sum(self) -> float:
        """Σ relevance over all inputs."""
        return sum(self.relevance.values())

    @property
    def caption(self) -> str:
        """`logit 9.71, Σ relevance 0.0038`; of several inputs what each of them got."""
        parts = (
            [self.probability] * bool(self.probability)
            if self.logit is None
            else [f"{_difference_of(self.kind) if isinstance(self.target, tuple) else self.kind} {number(self.logit)}"]
        )
        shares = " + ".join(f"{name} {number(share)}" for name, share in self.relevance.items())
        return ", ".join([*parts, f"Σ relevance {number(self.sum)}" + f" = {shares}" * (len(self.relevance) > 1)])


def explained(run: Run, relevance: Mapping[str, Any], labels: Labels | None) -> list[Explained]:
    """Every explained value of a run, row by row, the several targets of a row side by side."""
    classes, z, several = run.classes(), run.logits(), run.several
    sums = {name: _sums(values, len(classes[0]), several) for name, values in relevance.items() if name in run.inputs}
    scale, kind = run.about.scale, _kind(run.about.score, z)
    returned = [[None if z is None else _logit(z[row], one) for row, one in enumerate(chosen)] for chosen in classes]
    return [
        Explained(
            row,
            None if several is None else at,
            chosen[row],
            named(chosen[row], labels, run),
            returned[at][row] if scale == "logit" else None,
            {name: float(values[at, row]) for name, values in sums.items() if values is not None},
            "" if scale == "logit" or isinstance(chosen[row], tuple) else f"{scale} {_short(returned[at][row])}",
            kind,
            _put(run, returned[at][row]),
        )
        for row in range(len(classes[0]))
        for at, chosen in enumerate(classes)
    ]


def named(target: Class | None, labels: Labels | None, run: Run) -> str:
    """A class in words, with its number."""
    if target is None:
        if run.about.explains_answer:
            return "tokens as weighted"
        return "as seeded" if run.about.seed == "tensor" or run.about.picks is None else "a function of the outputs"
    pair = target if isinstance(target, tuple) else (target,)
    numbers = ("class " if len(pair) == 1 else "classes ") + " − ".join(map(str, pair))
    return numbers if labels is None else f"{' − '.join(_label(one, labels) for one in pair)} ({numbers})"


def _kind(score: str, z: np.ndarray | None) -> str:
    """What the model returns for each class: as its file says, and "probability" where all rows are shares of 1.

    A network may end in these in a way of its own, which nobody recognises but by the values.
    """
    if score != "logit" or z is None or z.shape[-1] < 2 or not z.size:
        return score
    shares = (z >= 0).all() and np.abs(z.sum(-1) - 1).max() <= SHARES
    return "probability" if shares else score


def _put(run: Run, logit: float | None) -> float | None:
    about = run.about
    if about.differences or about.latents or about.seed == "tensor" or logit is None:
        return None
    return 1.0 if about.seed == "one" else logit if about.scale == "logit" else None


def _difference_of(kind: str) -> str:
    return f"difference of {kind.removesuffix('y')}ies" if kind.endswith("y") else f"difference of {kind}s"


def _short(value: float | None) -> str:
    return "unknown" if value is None else number(value)


def number(value: float) -> str:
    """Three or four digits, however small."""
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def to_numpy(value: Any) -> np.ndarray:
    """A tensor of whatever device and dtype as an array; bfloat16, which numpy lacks, becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value)


def _label(target: int, labels: Labels) -> str:
    try:
        return str(labels(target) if callable(labels) else labels[target])
    except (LookupError, TypeError) as error:
        raise InputError(f"The labels have no name for class {target}.") from error


def _logit(row: np.ndarray, target: Class | None) -> float | None:
    if isinstance(target, tuple):
        return float(row[target[0]] - row[target[1]])
    return None if target is None else float(row[target])


def _picked(pick: Any, row: np.ndarray) -> Class | None:
    if isinstance(pick, Mapping):
        first, second = pick["pair"]
        return first, second
    if pick == "argmax":
        return int(row.argmax())
    return pick if isinstance(pick, int) else None


def _sums(values: Any, rows: int, several: int | None) -> np.ndarray | None:
    """Σ relevance, `[targets, batch]`; None where the rows of the batch cannot be told apart."""
    array = to_numpy(values)
    targets = several or 1
    array = array.reshape(targets, *array.shape[several is not None :])
    if rows > 1 and array.shape[1:2] != (rows,):
        return None
    summed: np.ndarray = array.reshape(targets, rows, -1).sum(-1, dtype=np.float64)
    return summed


def _at(z: np.ndarray, position: Any) -> np.ndarray:
    """`[batch, ..., classes]` at a position: picked where a step is an int, summed over where it is a slice."""
    count = z.ndim - 2
    if position is None or isinstance(position, str):
        steps = [{"slice": [None, None, None]} if position == "sum" else -1] * count
    else:
        steps = position if isinstance(position, list) else [position]
    for axis, step in reversed(list(enumerate(steps, start=1))):
        if isinstance(step, int):
            z = z.take(step, axis)
        else:
            z = z[(slice(None),) * axis + (slice(*step["slice"]),)].sum(axis)
    return z
