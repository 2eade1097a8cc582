"""The books folded by module, and as a table: every view adds up to the same seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from lrp_compiler.base.errors import InputError

if TYPE_CHECKING:
    from .audit import Audit, Entry

Sort = Literal["absorbed", "error", "relevance", "order"]
WHOLE = "(model)"
"""What the nodes are called that are in no module but the model itself."""
SORTS: dict[str, Callable[[Entry], float]] = {
    "absorbed": lambda entry: -sum(map(abs, entry.absorbed.values())),
    "error": lambda entry: -_size(entry.error),
    "relevance": lambda entry: -_size(entry.relevance_in),
    "order": lambda entry: 0.0,
}
"""The largest first; "order": as relevance passes them."""


def ordered(entries: Sequence[Entry], by: Sort) -> list[Entry]:
    """The entries in that order.

    Raises:
        InputError: there is no such order.
    """
    if by not in SORTS:
        raise InputError(f"The books cannot be sorted by {by!r}: choose one of {', '.join(get_args(Sort))}.")
    return sorted(entries, key=SORTS[by])


def fold(audit: Audit, depth: int | None) -> Audit:
    """See `Audit.by_module`."""
    from .audit import Audit, Entry

    if depth is not None and depth < 0:
        raise InputError(f"The depth of a module path is a number from 0, not {depth}.")
    home = {entry.node: ".".join(entry.module.split(".")[:depth]) or WHOLE for entry in audit.entries}
    flows: defaultdict[tuple[str, str], float] = defaultdict(float)
    within: defaultdict[str, float] = defaultdict(float)
    for (node, operand), share in audit.flows.items():
        if home[node] == home.get(operand):
            within[home[node]] += share
        else:
            flows[home[node], home.get(operand, operand)] += share
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in audit.entries:
        groups[home[entry.node]].append(entry)
    entries = [
        Entry(
            path,
            f"{len(group)} node{'s' * (len(group) != 1)}",
            "" if path == WHOLE else path,
            ", ".join(dict.fromkeys(entry.rule for entry in group)),
            sum(entry.relevance_in for entry in group) - within[path],
            sum(entry.relevance_out for entry in group) - within[path],
            absorbed_by(group),
        )
        for path, group in groups.items()
    ]
    return Audit(entries, audit.seed, audit.inputs, audit.magnitude, dict(flows), folded=True)


def absorbed_by(entries: Sequence[Entry]) -> dict[str, float]:
    """What left the flow at these, by cause."""
    causes: defaultdict[str, float] = defaultdict(float)
    for entry in entries:
        for cause, share in entry.absorbed.items():
            causes[cause] += share
    return dict(causes)


def books_table(audit: Audit, entries: Sequence[Entry], limit: int | None) -> Any:
    """A rich table with a column for each cause; rows beyond the limit are summed up, so that all adds up."""
    from rich.markup import escape
    from rich.table import Table

    causes = [cause for cause, _ in sorted(audit.absorbed.items(), key=lambda item: -_size(item[1]))]
    causes = [cause for cause in causes if any(entry.absorbed.get(cause) for entry in entries)]
    names = ["module", "nodes", "rules"] if audit.folded else ["node", "module", "op", "rule"]
    table = Table(title=f"seed {audit.seed:.6g} = inputs + absorbed, error {audit.error:.2e}", title_justify="left")
    for column in names:
        table.add_column(column, overflow="fold")
    for column in ("in", "out", *causes, "error"):
        table.add_column(column, justify="right")

    def add(cells: Sequence[str], sums: Sequence[float | None], absorbed: dict[str, float], error: float) -> None:
        shares = [f"{absorbed[cause]:.4g}" if absorbed.get(cause) else "–" for cause in causes]
        flows = ["" if value is None else f"{value:.5g}" for value in sums]
        table.add_row(*map(escape, cells), *flows, *shares, f"{error:.1e}")

    blank = [""] * (len(names) - 1)
    for entry in entries[:limit]:
        op = entry.op.removeprefix("aten.")
        cells = [op.split(" ")[0], entry.rule] if audit.folded else [entry.module, op, entry.rule]
        add([entry.node, *cells], (entry.relevance_in, entry.relevance_out), entry.absorbed, entry.error)
    rest = [] if limit is None else entries[limit:]
    if rest:
        add([f"… {len(rest)} more", *blank], (None, None), absorbed_by(rest), sum(entry.error for entry in rest))
    table.add_section()
    add(["all", *blank], (audit.seed, sum(audit.inputs.values())), audit.absorbed, audit.error)
    for name, share in audit.inputs.items():
        table.add_row(escape(f"input {name}"), *blank, "", f"{share:.5g}")
    return table


def _size(value: float) -> float:
    """How large it is; NaN is larger than everything, so that nobody misses it."""
    return abs(value) if value == value else float("inf")
