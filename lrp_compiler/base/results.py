"""What an explainer returns, as data: the ground of `Explanation`, and all that the pictures need of it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from .boundary import boundary
from .errors import MissingNameError, did_you_mean
from .run import Explained, Labels, Run, explained, to_numpy
from .validate import shortened

Array = TypeVar("Array")


class ByName(dict[str, Array]):
    """A dict that says which names there are, where it is asked for another one."""

    def __missing__(self, name: object) -> NoReturn:
        """Raise `MissingNameError`, which is a `KeyError`."""
        names = ", ".join(map(repr, self))
        there = f"the name{'s are' if len(self) > 1 else ' is'} {names}" if self else "there are no names at all"
        raise MissingNameError(f"There is no {shortened(name)} here{did_you_mean(name, self)}: {there}.")


@dataclass(frozen=True, eq=False, repr=False)
class Results(Generic[Array]):
    """Output and relevance of one run.

    Args:
        output: the model's own output. From torch in its own structure (flat name → tensor where that class is not at
            hand), from onnxruntime an array, or name → array if there are several.
        relevance: input name → relevance, shaped like that input (token ids: `[batch, sequence]`); with several targets
            `[targets, …]`.
        run: what was run, by reference.
        coefficients: name → relevance in unit form, of the values that are observed with `form="unit"` or `"both"`:
            relevance = value ⊙ coefficient.
        sums: of an explainer with `reduce=`: input name → Σ relevance of each row, `[batch]`, and "absorbed" → what
            else took a share of what was put on the output; with several targets `[targets, batch]`. Else empty.
        aggregate: of an explainer with `aggregate=`: input name → relevance summed over values of the network, at every
            place of the input, `[batch, height, width]` or `[batch, sequence]`; with several targets `[targets, …]`.
            It is a score, not a decomposition: it adds up to nothing. Else empty.
    """

    output: Any
    relevance: dict[str, Array]
    run: Run
    coefficients: dict[str, Array] = field(default_factory=dict)
    sums: dict[str, Array] = field(default_factory=dict)
    aggregate: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let what is by name say which names there are."""
        for name in ("relevance", "coefficients", "sums", "aggregate"):
            object.__setattr__(self, name, ByName(getattr(self, name)))

    @boundary("say what was explained")
    def explained(self, labels: Labels | None = None) -> list[Explained]:
        """Every explained value, row by row, the several targets of a row side by side.

        Args:
            labels: the classes' names: a list, a dict by number, or a function of the number.
        """
        return explained(self.run, self.sums or self.relevance, labels)

    @boundary("pick a relevance")
    def of(self, case: Explained, name: str) -> np.ndarray:
        """The relevance `name` of one of `explained`: shaped like one row."""
        values: Any = self.relevance[name]
        return to_numpy((values if case.number is None else values[case.number])[case.row])
