"""What is explained: which output, at which position, which classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lrp_compiler.base.errors import InputError, did_you_mean
from lrp_compiler.base.validate import whole_number

Pick = str | int | tuple[int, int]
"""One explained value per row: "argmax", a class, or a pair (for, against)."""
Step = int | slice


@dataclass(frozen=True)
class Target:
    """The explained value: one number for each row of the batch, or several in one run.

    Args:
        classes: "argmax" (each row's largest), a class number (negative ones count from the end), a pair
            `(a, b)` (contrastive: a minus b), "index" (int64 input `target` at run time), or a list of class numbers
            and pairs: relevance then has a leading dim `[targets]`. None: nothing is put on the output, relevance
            starts where `compile(seeds=…)` says.
        output: name or number of the explained output; default: `logits`, else the only or first float tensor.
        position: where in an output with more dims than batch and classes.

            - `[batch, sequence, classes]`: "last" (default), "last-unpadded" (the last one that the input
              `attention_mask` leaves), an int, a slice or range (summed over), or "index" (int64 input `position` of
              shape `[batch]` at run time);
            - `[batch, classes, height, width, …]`: an int or a slice for each further dim, or "sum" (all of them).
        count: with `classes="index"` or None: how many targets at once, for which the forward is run once; the input
            `target` is then `[count, batch]`, masks and seeds have as many in front as well.
        class_dim: the dim of the classes; default: the last one of up to three dims, else the second.
        probability: of a model that ends in a softmax or a sigmoid, whether the probability itself is explained; by
            default it is the logit in front.

    Raises:
        InputError: values that are none of these, or do not go together.
    """

    classes: Pick | Sequence[Pick] | None = "argmax"
    output: str | int | None = None
    position: str | Step | tuple[Step, ...] | None = None
    count: int | None = None
    class_dim: int | None = None
    probability: bool = False

    def __post_init__(self) -> None:
        """Read numbers of numpy and torch as numbers, and refuse what makes no sense."""
        for name, read in (
            ("classes", _classes),
            ("position", _position),
            ("count", _count),
            ("class_dim", _class_dim),
        ):
            object.__setattr__(self, name, read(getattr(self, name)))
        if self.count is not None and self.classes not in ("index", None):
            raise InputError("Target(count=…) goes with classes='index', or None where seeds= says what is explained.")
        number = whole_number(self.output)
        if number is not None:
            object.__setattr__(self, "output", number)
        elif not isinstance(self.output, str | None):
            raise InputError(f"An output is meant by its name or its number, not by {self.output!r}.")

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The explained classes, one by one; none where nothing is put on the output."""
        if self.classes is None:
            return ()
        return tuple(self.classes) if isinstance(self.classes, list) else (self.classes,)  # type: ignore[return-value]

    @property
    def targets(self) -> int | None:
        """Size of the leading dim of the relevance; `None`: there is none."""
        return len(self.classes) if isinstance(self.classes, list) else self.count

    @property
    def inputs(self) -> tuple[str, ...]:
        """Run-time inputs of the forward."""
        return ("position",) if self.position == "index" else ()

    @property
    def label(self) -> str | int:
        """How messages call it: its classes where nothing else was said."""
        simple = isinstance(self.classes, (str, int)) and not self._said
        return self.classes if simple else str(self)  # type: ignore[return-value]

    @property
    def _said(self) -> dict[str, object]:
        """What was said besides the classes."""
        given = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {key: value for key, (value, default) in given.items() if key != "classes" and value != default}

    def counted(self, classes: object) -> Target:
        """The same, with negative class numbers counted from the end, as Python does.

        Args:
            classes: how many classes there are, a symbol where that is open.

        Raises:
            InputError: there is no such class, or it cannot be counted from the end.
        """

        def count(pick: Any) -> Any:
            if isinstance(pick, tuple):
                return tuple(map(count, pick))
            if isinstance(pick, str):
                return pick
            if not isinstance(classes, int):
                if pick < 0:
                    raise InputError(f"Target {pick} counts from the end, but the number of classes is open.")
                return pick
            if not -classes <= pick < classes:
                raise InputError(f"Target {pick} is out of range: the model has {_all_of(classes)}.")
            return pick % classes

        if self.classes is None:
            return self
        found = [count(pick) for pick in self.picks]
        return replace(self, classes=found if isinstance(self.classes, list) else found[0])

    def to_dict(self) -> dict[str, object]:
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
    def of(cls, target: Target | Pick | Sequence[Pick] | None) -> Target:
        """From what `compile(target=…)` takes: a Target, or its classes."""
        return target if isinstance(target, Target) else cls(target)

    def __str__(self) -> str:
        """The classes alone where nothing else was said."""
        rest = "".join(f", {key}={value!r}" for key, value in self._said.items())
        return f"Target({self.classes!r}{rest})" if rest else repr(self.classes)


UNKNOWN = "choose 'argmax', 'index', a class number, a pair (for, against), or a list of class numbers and pairs"


def _classes(given: object) -> Pick | list[Pick] | None:
    if given is None:
        return None
    if isinstance(given, list | range):
        if not given:
            raise InputError("The list of targets is empty.")
        return [_pick(pick, several=True) for pick in given]
    return _pick(given)


def _pick(given: Any, several: bool = False) -> Pick:
    number = whole_number(given)
    if number is not None:
        return number
    if isinstance(given, str) and given in _MODES:
        if several:
            raise InputError(f"Unknown target {given!r} in a list: a list holds class numbers and pairs.")
        return given
    pair = tuple(map(whole_number, given)) if isinstance(given, tuple) else ()
    if len(pair) == 2 and None not in pair:
        return pair  # type: ignore[return-value]
    if len(getattr(given, "shape", ())) == 1:
        raise InputError(
            f"The target has shape {list(given.shape)}: for a class of each row compile with target='index' and give "
            "it in the call; for several classes at once give a list."
        )
    if isinstance(given, float):
        raise InputError(f"Unknown target {given!r}: a class is a whole number.")
    hint = did_you_mean(given, _MODES) if isinstance(given, str) else ""
    raise InputError(f"Unknown target {given!r}{hint}: {UNKNOWN}.")


def _position(given: Any) -> str | Step | tuple[Step, ...] | None:
    if given is None or isinstance(given, str):
        if given not in (None, *_PLACES):
            raise InputError(
                f"Unknown position {given!r}{did_you_mean(given, _PLACES)}: choose 'last', 'last-unpadded', 'index', "
                "'sum', ints or slices."
            )
        return given
    if isinstance(given, list | tuple) or len(getattr(given, "shape", ())) == 1:
        return tuple(map(_step, given))
    return _step(given)


def _step(given: object) -> Step:
    """An int, or the slice that a range is."""
    number = whole_number(given)
    if number is not None:
        return number
    if isinstance(given, range) and len(given) and given[0] >= 0 and given.step > 0:
        return slice(given[0], given[-1] + 1, given.step)
    if isinstance(given, slice):
        parts = (given.start, given.stop, given.step)
        numbers = [whole_number(part) for part in parts]
        if [part is None for part in parts] == [number is None for number in numbers] and (numbers[2] or 1) > 0:
            return slice(*numbers)
    raise InputError(f"Unknown position {given!r}: choose a whole number, or a slice that goes forwards (summed over).")


def _count(given: object) -> int | None:
    number = whole_number(given)
    if given is not None and (number is None or number < 1):
        raise InputError(f"Target(count=…) is how many targets there are at once, from 1 up, not {given!r}.")
    return number


def _class_dim(given: object) -> int | None:
    number = whole_number(given)
    if given is not None and number is None:
        raise InputError(f"Target(class_dim=…) is the number of a dimension, not {given!r}.")
    return number


_MODES = ("argmax", "index")
_PLACES = ("last", "last-unpadded", "index", "sum")


def _all_of(classes: int) -> str:
    return f"{classes} classes, 0 to {classes - 1}" if classes > 1 else "one class, 0"


def _plain(value: object) -> object:
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, tuple):
        return {"pair": list(value)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _unplain(value: object) -> Any:
    if isinstance(value, dict):
        return slice(*value["slice"]) if "slice" in value else tuple(value["pair"])
    return value
