"""What the analyses of a graph know about one operation: the facts that rules may read.

    GATE: Fact[str | None] = Fact("gate", None)        stands with the rule that reads it
    op.fact(GATE)                                      what the analysis found, or the default
    facts.known(GATE, "other")                         what the analysis writes

A fact is declared once, next to the rule that reads it; an analysis (a file of `passes/assign/`) finds it. Facts are
kept with every operation, in memory and in files, and nothing else decides: options of a rule are the user's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")

FACTS: dict[str, Fact[Any]] = {}
"""Name → fact: all that are declared."""


def _as_it_is(value: object) -> Any:
    return value


@dataclass(frozen=True, eq=False)
class Fact(Generic[T]):
    """One thing that can be known of an operation.

    Args:
        name: under which files have it.
        default: what holds where no analysis says otherwise; never what is wrong for some input.
        decode: the value from plain data (JSON has lists and dicts, no tuples).
        stored: whether it travels in files; a Python function does not.

    Raises:
        ValueError: there is a fact of that name.
    """

    name: str
    default: T
    decode: Callable[[Any], T] = _as_it_is
    stored: bool = True

    def __post_init__(self) -> None:
        """Enter it in the list."""
        if self.name in FACTS:
            raise ValueError(f"there is a fact {self.name!r} already")
        FACTS[self.name] = self


@dataclass(frozen=True)
class Facts:
    """What is known of one operation."""

    _values: Mapping[str, object] = field(default_factory=dict)

    def __getitem__(self, fact: Fact[T]) -> T:
        """What is known, or the default."""
        return cast(T, self._values.get(fact.name, fact.default))

    @classmethod
    def of(cls, known: Mapping[Fact[Any], Any]) -> Facts:
        """These facts and no others."""
        facts = cls()
        for fact, value in known.items():
            facts = facts.known(fact, value)
        return facts

    def known(self, fact: Fact[T], value: T) -> Facts:
        """These facts and one more; the default is not written down."""
        rest = {name: known for name, known in self._values.items() if name != fact.name}
        return Facts(rest if value == fact.default else {**rest, fact.name: value})

    def items(self) -> Iterable[tuple[str, object]]:
        """Name and value of each that is not the default."""
        return sorted(self._values.items())

    def to_dict(self) -> dict[str, object]:
        """Those that travel in files, as plain data."""
        return {name: value for name, value in sorted(self._values.items()) if FACTS[name].stored}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Facts:
        """The inverse of `to_dict`.

        Raises:
            KeyError: a fact that this version does not know.
        """
        return cls({name: FACTS[name].decode(value) for name, value in data.items()})
