"""What another explainer of the same model does differently, operation by operation.

epsilon → epsilon-plus: another rule at 1 of 3 operations, 0 added, 0 removed; relevance graph 17 → 21 nodes
node    op      module  rule                             promise  relevance graph
conv2d  conv2d  stem    epsilon(epsilon=1e-06) → z-plus  kept     +1 clamp, −1 abs
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lrp_compiler.artefact import Artefact
from lrp_compiler.base.errors import InputError

from .listing import OPERAND, STEP, Row, as_pre, chosen_rows, columns, in_phase, rows_of, short_name


@dataclass(frozen=True)
class Change:
    """What is different at one operation of the model.

    Args:
        node: its name in the forward graph.
        op: its ATen overload.
        module: path of the module that it is in.
        rule: before and after, with options; "" where relevance does not pass it, `None` where it does not exist.
        promise: resolution of its value's promise before and after; "" where there is none.
        relevance: op → how many more nodes of the relevance graph explain it (fewer: negative).
    """

    node: str
    op: str
    module: str
    rule: tuple[str | None, str | None]
    promise: tuple[str, str]
    relevance: Mapping[str, int]


@dataclass(frozen=True)
class Difference:
    """What changes from one explainer to another of the same model: text when printed, `Change`s when iterated."""

    title: str
    changes: Sequence[Change]

    def __iter__(self) -> Iterator[Change]:
        """The changes, one operation each."""
        return iter(self.changes)

    def __len__(self) -> int:
        """How many operations are explained differently."""
        return len(self.changes)

    def to_dict(self) -> dict[str, Any]:
        """The changes as plain data."""
        return {"title": self.title, "changes": [asdict(change) for change in self.changes]}

    def __str__(self) -> str:
        """One line an operation."""
        rows = [
            (
                change.node,
                short_name(change.op),
                change.module,
                _arrow(change.rule),
                _arrow(change.promise),
                ", ".join(f"{count:+d} {op}".replace("-", "−") for op, count in change.relevance.items()),
            )
            for change in self.changes
        ]
        return "\n".join([self.title, *columns(("node", "op", "module", "rule", "promise", "relevance graph"), rows)])

    def _repr_html_(self) -> str:
        return as_pre(str(self))


def diff(
    artefact: Artefact,
    other: Artefact,
    only: str | Sequence[str] = (),
    rule: str | None = None,
    op: str | None = None,
) -> Difference:
    """See `Explainer.diff`."""
    sides = [rows_of(artefact), rows_of(other)]
    forwards = [{(row.name, row.op, row.module): row for row in in_phase(rows, "forward")} for rows in sides]
    if artefact.about.inputs != other.about.inputs or not forwards[0].keys() & forwards[1].keys():
        raise InputError("These two explain different models: their inputs or operations are not the same.")
    keys = {(row.name, row.op, row.module) for row in chosen_rows([*sides[0], *sides[1]], only, rule, op)}
    counts = [_made(rows) for rows in sides]
    changes = []
    for key in dict.fromkeys([*forwards[0], *forwards[1]]):
        rows = [forward.get(key) for forward in forwards]
        made = [count.get(key[0], Counter()) if row else Counter() for row, count in zip(rows, counts, strict=True)]
        nodes = {name: made[1][name] - made[0][name] for name in sorted({*made[0], *made[1]})}
        change = Change(
            *key,
            tuple(row.rule if row else None for row in rows),  # type: ignore[arg-type]
            tuple(row.promises.partition(" for ")[0] if row else "" for row in rows),  # type: ignore[arg-type]
            {name: count for name, count in nodes.items() if count},
        )
        if key in keys and (len(set(change.rule)) > 1 or len(set(change.promise)) > 1 or change.relevance):
            changes.append(change)
    return Difference(_title(artefact, other, sides, forwards, changes), changes)


def _title(artefact: Artefact, other: Artefact, sides: Any, forwards: Any, changes: list[Change]) -> str:
    names = [each.about.name for each in (artefact, other)]
    ruled = sum(1 for change in changes if None not in change.rule and change.rule[0] != change.rule[1])
    gone, new = (sum(1 for change in changes if change.rule[side] is None) for side in (1, 0))
    before, after = (len(in_phase(rows, "relevance")) for rows in sides)
    of = sum(1 for row in forwards[0].values() if row.rule)
    return (
        f"{names[0]} → {names[1]}: another rule at {ruled} of {of} operations, {new} added, {gone} removed; "
        f"relevance graph {before} → {after} nodes"
    )


def _made(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """Forward node → the ops of the relevance nodes that explain it."""
    made: dict[str, Counter[str]] = {}
    for row in in_phase(rows, "relevance"):
        if row.op in (OPERAND, STEP):
            continue
        made.setdefault(row.explains, Counter())[short_name(row.op)] += 1
    return made


def _arrow(pair: Sequence[str | None]) -> str:
    before, after = ("–" if side == "" else "none" if side is None else side for side in pair)
    return before if before == after else f"{before} → {after}"
