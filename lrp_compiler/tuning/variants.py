"""A composite with its options left open: which there are, what they mean, and which values are worth a try."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from itertools import product
from typing import Any

from lrp_compiler.base.errors import CompositeError
from lrp_compiler.rules import RULES
from lrp_compiler.rules.composite import Composite, Entry
from lrp_compiler.rules.composites import composite_named

Options = Mapping[str, Any]
TRIED = {
    "gamma": (0.0, 0.05, 0.25, 1.0, 4.0),
    "alpha": (1.0, 1.5, 2.0, 3.0),
    "epsilon": (1e-6, 1e-3, 1e-2, 1e-1, 1.0),
}
"""Values to try, by the option of the rule that they end up in; ε only where there is nothing else."""
COMPOSITES_TRIED = ("epsilon", "epsilon-plus", "attnlrp", "attnlrp-gamma", "cp-lrp", "reference")
"""What is tried in place of the composite that `auto` chooses: those that need to be told nothing. The last one
compares with what replaced features show."""
STABILISER = "epsilon"
AUTO, OTHER = "auto", "composite"
MARK = 0.4370312
"""A number that no composite holds: where it turns up, there the option leads."""


@dataclass(frozen=True)
class Variants:
    """A composite with its options left open.

    Args:
        name: of the composite, for messages.
        make: options → the composite.
        defaults: option → its value where nothing is said; None may also stand for several values.
        grid: the values to try, where they do not follow from what an option leads to.
    """

    name: str
    make: Callable[[Options], Composite]
    defaults: dict[str, Any]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def leads_to(self, option: str) -> set[str]:
        """The options of rules that this one sets."""
        default = self.defaults[option]
        if default is not None and not _is_number(default):
            return set()
        entries = self.make({option: MARK}).entries
        return {name for entry in entries for name, value in entry.options.items() if value == MARK}

    def default_grid(self) -> dict[str, tuple[Any, ...]]:
        """Every option that leads to a γ or an α, with the values to try; ε where there is none of these.

        Raises:
            CompositeError: the composite has nothing to tune.
        """
        if self.grid:
            return dict(self.grid)
        whole = [option for option in self.defaults if "." not in option]
        meanings = {option: self.leads_to(option) & TRIED.keys() for option in whole}
        if not any(meanings.values()):
            raise CompositeError(
                f"The composite {self.name!r} has no option that leads to a γ, α or ε: say what to try, as in "
                "grid={'option': [1, 2]}."
            )
        shaping = {option: found - {STABILISER} for option, found in meanings.items()}
        chosen = shaping if any(shaping.values()) else meanings
        return {option: TRIED[min(found)] for option, found in chosen.items() if found}

    def settings(self, grid: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
        """Every combination of the grid's values; the default first, as {}.

        Raises:
            CompositeError: an empty grid, an option that the composite does not have, or a value that it cannot take.
        """
        values = {option: self._values(option, given) for option, given in grid.items()}
        if not values:
            raise CompositeError("The grid is empty: say what to try, as in grid={'gamma': [0, 0.25, 1]}.")
        default = {option: self.defaults[option] for option in values}
        combinations = (dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))
        return [{}, *(setting for setting in combinations if setting != default)]

    def _values(self, option: str, given: Any) -> list[Any]:
        if option not in self.defaults:
            raise CompositeError(
                f"The composite {self.name!r} has no option {option!r} to tune: it takes {', '.join(self.defaults)}."
            )
        values = [] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
        if not values:
            raise CompositeError(f"The grid gives {option!r} no values: a list is wanted, as in [0, 0.25, 1].")
        default = self.defaults[option]
        numeric = default is None or _is_number(default)
        for value in values:
            number = _is_number(value) and math.isfinite(value) and value >= 0
            if not (number or value is default if numeric else isinstance(value, type(default))):
                kind = "a finite number from 0 up" if numeric else f"a {type(default).__name__}"
                raise CompositeError(f"The option {option!r} of {self.name!r} is {kind}, not {value!r}.")
        return [value for at, value in enumerate(values) if value not in values[:at]]


def variants(composite: str | Composite | Callable[..., Composite], options: Options | None = None) -> Variants:
    """A composite with its options left open.

    Args:
        composite: a name, a function that makes composites (`lrp.composites.attnlrp_gamma`, or one of your own), or a
            Composite, whose entries' options are then named "gamma", or "linear.gamma" of one kind. "auto" has the
            option "composite": the name of another one in its place.
        options: values that are settled already.

    Raises:
        CompositeError: there is none of that name, or its options are others.
    """
    given = dict(options or {})
    if isinstance(composite, Composite):
        if given:
            raise CompositeError("A Composite holds its options itself: options belong to a composite's name.")
        return Variants(composite.name, lambda chosen: _with(composite, chosen), _options_of(composite))
    if composite == AUTO and not given:
        return Variants(
            AUTO, lambda chosen: _as_it_is(chosen.get(OTHER, AUTO)), {OTHER: AUTO}, {OTHER: COMPOSITES_TRIED}
        )
    factory = composite if callable(composite) else composite_named(composite)
    name = getattr(composite, "__name__", str(composite))
    parameters = signature(factory).parameters
    missing = [option for option, p in parameters.items() if p.default is p.empty and option not in given]
    unknown = [option for option in given if option not in parameters]
    if unknown:
        raise CompositeError(f"The composite {name!r} has no option {unknown[0]!r}: it takes {', '.join(parameters)}.")
    if missing:
        values = ", ".join(f"{option!r}: …" for option in missing)
        raise CompositeError(f"The composite {name!r} needs {' and '.join(missing)}: give them, options={{{values}}}.")
    defaults = {option: p.default for option, p in parameters.items() if option not in given}
    return Variants(name, lambda chosen: factory(**{**given, **chosen}), defaults)


def _as_it_is(name: str) -> Composite:
    factory = composite_named(name)
    missing = [option for option, p in signature(factory).parameters.items() if p.default is p.empty]
    if missing:
        raise CompositeError(
            f"The composite {name!r} needs {' and '.join(missing)}: tune it by itself, composite={name!r} with options."
        )
    return factory()


# ── a table's options ────────────────────────────────────────────────────────────────────────────────────────────────


def _options_of(composite: Composite) -> dict[str, Any]:
    """Option → value, of all entries and of each kind; None where they differ."""
    found: dict[str, list[Any]] = {}
    for entry in composite.entries:
        for option, value in _numbers(entry).items():
            for name in (option, *(f"{kind}.{option}" for kind in entry.kinds)):
                found.setdefault(name, []).append(value)
    return {name: values[0] if len(set(values)) == 1 else None for name, values in found.items()}


def _numbers(entry: Entry) -> dict[str, float]:
    """The entry's options that are numbers, and the rule's own where it says nothing."""
    rules: Sequence[Any] = [function for (_, name), function in RULES.items() if name == entry.rule]
    own = {p.name: p.default for rule in rules for p in signature(rule).parameters.values()}
    known = {**{name: value for name, value in own.items() if value is not Parameter.empty}, **entry.options}
    return {name: value for name, value in known.items() if _is_number(value)}


def _with(composite: Composite, chosen: Options) -> Composite:
    """The composite with other numbers in its entries; α takes β = α − 1 along."""
    entries = []
    for entry in composite.entries:
        numbers, new = _numbers(entry), dict(entry.options)
        for name, value in chosen.items():
            kind, _, option = name.rpartition(".")
            if option in numbers and (not kind or kind in entry.kinds):
                new[option] = value
                if option == "alpha" and "beta" in numbers:
                    new["beta"] = value - 1
        entries.append(replace(entry, options=new))
    return replace(composite, entries=tuple(entries))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
