"""What is explained: which output, at which position, which classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lrp_compiler.base.errors import InputError

Pick = str | int | tuple[int, int]
"""One explained value per row: "argmax", a class, or a pair (for, against)."""
Step = int | slice


@dataclass(frozen=True)
class Target:
    """The explained value: one number for each row of the batch, or several in one run.

    Args:
        classes: "argmax" (each row's largest), a class number, a pair `(a, b)` (contrastive: a minus b), "index" (int64
            input `target` at run time), or a list of class numbers and pairs: relevance then has a leading dim
            `[targets]`.
        output: name or number of the explained output; default: `logits`, else the only or first float tensor.
        position: where in an output with more dims than batch and classes.

            - `[batch, sequence, classes]`: "last" (default), "last-unpadded" (the last one that the input
              `attention_mask` leaves), an int, a slice (summed over), or "index" (int64 input `position` of shape
              `[batch]` at run time);
            - `[batch, classes, height, width, …]`: an int or a slice for each further dim, or "sum" (all of them).
        count: with `classes="index"`: how many targets at once; the input `target` is then `[count, batch]`.
        class_dim: the dim of the classes; default: the last one of up to three dims, else the second.
        probability: of a model that ends in a softmax or a sigmoid, whether the probability itself is explained; by
            default it is the logit in front.

    Raises:
        InputError: values that are none of these, or do not go together.
    """

    classes: Pick | Sequence[Pick] = "argmax"
    output: str | int | None = None
    position: str | Step | tuple[Step, ...] | None = None
    count: int | None = None
    class_dim: int | None = None
    probability: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        several = isinstance(self.classes, list)
        for pick in self.classes if several else [self.classes]:  # type: ignore[union-attr]
            if not (_is_class(pick) or _is_pair(pick) or (pick in ("argmax", "index") and not several)):
                raise InputError(
                    f"Unknown target {pick!r}: choose 'argmax', 'index', a class number, a pair (for, against), or a "
                    "list of class numbers and pairs."
                )
        if several and not self.classes:
            raise InputError("The list of targets is empty.")
        if self.count is not None and not (self.classes == "index" and _is_class(self.count) and self.count > 0):
            raise InputError("Target(count=…) is a positive number and goes with classes='index'.")
        if isinstance(self.position, str) and self.position not in ("last", "last-unpadded", "index", "sum"):
            raise InputError(
                f"Unknown position {self.position!r}: choose 'last', 'last-unpadded', 'index', 'sum', ints or slices."
            )

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The explained classes, one by one."""
        return tuple(self.classes) if isinstance(self.classes, list) else (self.classes,)  # type: ignore[return-value]

    @property
    def targets(self) -> int | None:
        """Size of the leading dim of the relevance; `None`: there is none."""
        return len(self.classes) if isinstance(self.classes, list) else self.count

    @property
    def label(self) -> str | int:
        """How messages call it: its classes where nothing else was said."""
        simple = isinstance(self.classes, (str, int)) and not self._said
        return self.classes if simple else str(self)  # type: ignore[return-value]

    @property
    def _said(self) -> dict[str, Any]:
        """What was said besides the classes."""
        given = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {key: value for key, (value, default) in given.items() if key != "classes" and value != default}

    def check(self, classes: Any) -> None:
        """Compare fixed class numbers with the number of classes.

        Raises:
            InputError: there is no such class.
        """
        flat = (number for pick in self.picks for number in (pick if isinstance(pick, tuple) else [pick]))
        for number in flat:
            if isinstance(number, int) and isinstance(classes, int) and not 0 <= number < classes:
                raise InputError(
                    f"Target {number} is out of range: the model has {classes} classes, 0 to {classes - 1}."
                )

    def to_dict(self) -> dict[str, Any]:
        """The target as plain data."""
        position = self.position
        steps = [_plain(step) for step in position] if isinstance(position, tuple) else _plain(position)
        return {
            "classes": _plain(self.classes),
            "output": self.output,
            "position": steps,
            "count": self.count,
            "class_dim": self.class_dim,
            "probability": self.probability,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Target:
        """The inverse of `to_dict`."""
        position, classes = data["position"], data["classes"]
        if isinstance(position, list):
            position = tuple(map(_unplain, position))
        if isinstance(classes, list):
            classes = [_unplain(item) for item in classes]
        return cls(**{**data, "position": _unplain(position), "classes": _unplain(classes)})

    @classmethod
    def of(cls, target: Any) -> Target:
        """From what `compile(target=…)` takes: a Target, or its classes."""
        return target if isinstance(target, Target) else cls(target)

    def __str__(self) -> str:
        """The classes alone where nothing else was said."""
        rest = "".join(f", {key}={value!r}" for key, value in self._said.items())
        return f"Target({self.classes!r}{rest})" if rest else repr(self.classes)


Explained = Target | Callable[[Any], Any]


def _is_class(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_class, value))


def _plain(value: Any) -> Any:
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, tuple):
        return {"pair": list(value)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        return slice(*value["slice"]) if "slice" in value else tuple(value["pair"])
    return value
