"""Composites: which rule, with which options, applies at which operation. Those that have a name: `composites.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import fx

from lrp_compiler.base.errors import CompositeError
from lrp_compiler.base.tables import as_html, as_text, plain_table
from lrp_compiler.base.validate import shortened

from .registry import RULES, RuleError, UserRule

if TYPE_CHECKING:
    from lrp_compiler.base.plain_table import PlainTable

Position = Literal["first", "last"]
ANY = "*"
"""As an entry's kind: every operation that the rule fits."""
FIXED = "fixed"
"""As an entry's rule: the result counts as a constant, so relevance goes round it instead of into it."""


@dataclass(frozen=True)
class Entry:
    """One line of a composite: which operations get which rule. Every condition that is given must hold.

    Args:
        kind: the operator's kind, or several: "convolution", "linear", "addition", "average", "softmax", …; `ANY`
            ("*") for all that the rule fits.
        rule: name of the rule, one of those that fit the kind's family; or `FIXED` ("fixed"): the result counts as a
            constant; or a function `(op, relevance) → relevance` that explains a whole module at once (with the kind
            `ANY`, and `path` or `module`): `op.active` are the values that enter it.
        options: the rule's parameters; plain data.
        path: pattern of a module path, as in "encoder.layers.*.attn" (`*` stays within a dot, `**` does not): the
            module and everything inside it.
        module: name of a module's class, as in "MultiheadAttention": such modules and everything inside them.
        position: "first" or "last" of all that match the other conditions, in graph order.
        when: predicate on the node of the forward graph; not with a function, which speaks of modules.
        optional: whether an entry that matches nothing is fine; else it is an error.
    """

    kind: str | tuple[str, ...]
    rule: str | UserRule
    options: Mapping[str, object] = field(default_factory=dict)
    path: str | None = None
    module: str | None = None
    position: Position | None = None
    when: Callable[[fx.Node], bool] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind."""
        named = isinstance(self.kind, str) or (
            isinstance(self.kind, tuple | list) and all(isinstance(kind, str) for kind in self.kind)
        )
        known = {
            "kind": (named, "an operator's kind, or several"),
            "rule": (isinstance(self.rule, str) or callable(self.rule), "the name of a rule, or a function"),
            "options": (isinstance(self.options, Mapping), "a dict of the rule's parameters"),
            "path": (isinstance(self.path, str | None), "the pattern of a module path"),
            "module": (isinstance(self.module, str | None), "the name of a module's class"),
            "position": (self.position in (None, "first", "last"), "'first' or 'last'"),
            "when": (self.when is None or callable(self.when), "a function of a node"),
        }
        for name, (fits, wanted) in known.items():
            if not fits:
                raise CompositeError(f"The {name} of an entry is {wanted}, not {shortened(getattr(self, name))}.")
        # What is written into files is what comes back from them: one spelling of everything.
        kinds = self.kinds
        object.__setattr__(self, "kind", kinds[0] if len(kinds) == 1 else kinds)
        object.__setattr__(self, "options", {name: _stored(value) for name, value in self.options.items()})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds as a tuple."""
        return (self.kind,) if isinstance(self.kind, str) else tuple(self.kind)

    def conditions(self) -> dict[str, str]:
        """What must hold, in words."""
        given = {
            "kind": " | ".join(self.kinds),
            "path": self.path,
            "module": self.module,
            "position": self.position,
            "when": _name(self.when),
        }
        return {key: value for key, value in given.items() if value is not None}

    def to_dict(self) -> dict[str, object]:
        """The entry as plain data; functions by their names."""
        plain = {**self.conditions(), "kind": list(self.kinds), "rule": _name(self.rule)}
        return {**plain, "options": dict(self.options), "optional": self.optional}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry:
        """The inverse of `to_dict`.

        Raises:
            RuleError: a predicate or a rule of it is a function, which does not travel in files.
        """
        known = {FIXED, *(name for _, name in RULES)}
        function = data.get("when") or (data["rule"] if data["rule"] not in known else None)
        if function:
            raise RuleError(f"The composite uses the function {function!r}, which does not travel in files.")
        return cls(**{**data, "kind": tuple(data["kind"])})

    def __str__(self) -> str:
        """The conditions and the rule, on one line."""
        conditions = ", ".join(f"{key} {value!r}" for key, value in self.conditions().items())
        return f"{conditions} → {_name(self.rule)}"


@dataclass(frozen=True)
class Composite:
    """A named table of entries; the first one that matches an operation decides, else the operator's own rule.

    Args:
        name: how it is reported.
        entries: the table.
        seed: relevance put on the explained value when the caller says nothing: "value" or "one".
        primitives: take every primitive op by itself: biases are additions, batch norms are not folded,
            normalisations and activations that are written out are not recognised.
        differences: relevance is of differences from a reference, at which the model is run, too: every rule is one of
            differences, and nothing is held fixed.
        by_structure: the composite stands for another one, chosen from the model's structure when that is compiled
            (`passes/assign/choose_composite.py`).
        why: of a composite that was chosen so: what chose it, and why, in words.
    """

    name: str
    entries: tuple[Entry, ...] = ()
    seed: str = "value"
    primitives: bool = False
    differences: bool = False
    by_structure: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind; a list of entries is as good as a tuple."""
        if not isinstance(self.name, str):
            raise CompositeError(f"The name of a composite is a text, not {shortened(self.name)}.")
        entries = self.entries
        if not (isinstance(entries, tuple | list) and all(isinstance(entry, Entry) for entry in entries)):
            raise CompositeError(
                f"The entries of composite {self.name!r} are a tuple of lrp.Entry, not {shortened(entries)}."
            )
        object.__setattr__(self, "entries", tuple(entries))
        if self.seed not in ("value", "one"):
            raise CompositeError(f"The seed of a composite is 'value' or 'one', not {shortened(self.seed)}.")

    def to_dict(self) -> dict[str, object]:
        """The composite as plain data: what the artefact stores."""
        return {
            "name": self.name,
            "entries": [entry.to_dict() for entry in self.entries],
            "seed": self.seed,
            "primitives": self.primitives,
            "differences": self.differences,
            **({"by_structure": True} if self.by_structure else {}),
            **({"why": self.why} if self.why else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Composite:
        """The inverse of `to_dict`; raises `RuleError` if it holds functions, which do not travel in files."""
        return cls(**{**data, "entries": tuple(map(Entry.from_dict, data["entries"]))})

    def table(self) -> PlainTable:
        """The composite as a rich table, one row an entry."""
        why = f" ({self.why})" if self.why else ""
        table = plain_table(title=f"composite {self.name}{why}", title_justify="left")
        for column in ("applies to", "rule", "options"):
            table.add_column(column, overflow="fold")
        for entry in self.entries:
            conditions = entry.conditions()
            where = [conditions.pop("kind"), *(f"{key} {value}" for key, value in conditions.items())]
            options = ", ".join(f"{key}={value}" for key, value in entry.options.items())
            table.add_row(", ".join(where), str(_name(entry.rule)), options)
        rest = "chosen from the model's structure" if self.by_structure else "the operator's own"
        table.add_row("everything else", rest, "")
        return table

    def __str__(self) -> str:
        """The table as text."""
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return as_html(self.table())


def _stored(value: object) -> object:
    """An option as files hold it: numbers of numpy and torch as those of Python, several of them as a list."""
    value = getattr(value, "tolist", lambda: value)()
    if isinstance(value, Mapping):
        return {name: _stored(one) for name, one in value.items()}
    return [_stored(one) for one in value] if isinstance(value, list | tuple) else value


def _name(value: str | Callable[..., object] | None) -> str | None:
    return getattr(value, "__qualname__", repr(value)) if callable(value) else value
