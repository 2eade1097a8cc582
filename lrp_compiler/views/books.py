"""The books of one run: node by node, folded by module, and as a table; every view adds up to the same seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.tables import as_html, as_text, plain_table

Sort = Literal["absorbed", "error", "relevance", "order"]
FIRST: dict[Sort, str] = {
    "absorbed": "most absorbed first",
    "error": "largest error first",
    "relevance": "most relevance first",
    "order": "from the output back to the inputs",
}
"""What stands on top of a table, in words."""


@dataclass(repr=False)
class Entry:
    """One node's books, in relevance summed over the batch."""

    node: str
    op: str
    module: str
    rule: str
    relevance_in: float
    relevance_out: float
    absorbed: dict[str, float]
    magnitude: float = 0.0
    """Σ|R| of the node's value; of a module's entry, the largest of its nodes'."""

    @property
    def error(self) -> float:
        """What is not accounted for: in − out − absorbed."""
        return self.relevance_in - self.relevance_out - sum(self.absorbed.values())

    def __repr__(self) -> str:
        """`swish (mylib.swish, rule_of_swish): in 3, out 2, bias 0.5, error 0.5`."""
        sums = {"in": self.relevance_in, "out": self.relevance_out, **self.absorbed, "error": self.error}
        said = ", ".join(f"{name} {value:.4g}" for name, value in sums.items() if value or name not in self.absorbed)
        return f"{self.node} ({', '.join(filter(None, (self.op, self.rule)))}): {said}"


@dataclass(repr=False)
class Audit:
    """The books of one run: `seed = Σ inputs + Σ absorbed + error`.

    Args:
        entries: one for each node that relevance passed, from the output back to the inputs.
        seed: relevance put on the output, summed over the batch.
        inputs: relevance that arrived, by input name, summed over the batch.
        magnitude: Σ|R| over the explained inputs: the yardstick for the error.
        explained: Σ over the rows of |relevance put on the row|: the yardstick for sizes, 0 where it is not known.
        flows: what each node handed to each of its operands, summed over the batch, by (node, operand).
        folded: whether the entries are modules (`by_module`).
    """

    entries: list[Entry] = field(default_factory=list)
    seed: float = 0.0
    inputs: dict[str, float] = field(default_factory=dict)
    magnitude: float = 0.0
    explained: float = 0.0
    flows: dict[tuple[str, str], float] = field(default_factory=dict)
    folded: bool = False

    @property
    def absorbed(self) -> dict[str, float]:
        """What left the flow, by cause: bias, constant, stabiliser, softmax, …."""
        return absorbed_by(self.entries)

    @property
    def error(self) -> float:
        """What is not accounted for: seed − Σ inputs − Σ absorbed."""
        return self.seed - sum(self.inputs.values()) - sum(self.absorbed.values())

    @property
    def widest(self) -> Entry | None:
        """Where Σ|R| is largest."""
        return max(self.entries, key=lambda entry: _size(entry.magnitude), default=None)

    @property
    def conditioning(self) -> float:
        """Σ|R| where it is largest, as a multiple of what is explained: 1 if no shares of opposite signs cancel.

        A sum loses as many of its digits as this has: at 10⁴ three of float32's seven are left. NaN where nothing is
        explained.
        """
        widest = 0.0 if self.widest is None else self.widest.magnitude
        return max(widest, self.magnitude) / self.explained if self.explained else float("nan")

    @property
    def remarks(self) -> list[str]:
        """What one should know of these numbers before one believes them: a sentence each; mostly none."""
        return remarks(self)

    def to_dict(self) -> dict[str, Any]:
        """The books as plain data."""
        return {
            "seed": self.seed,
            "inputs": self.inputs,
            "absorbed": self.absorbed,
            "error": self.error,
            "magnitude": self.magnitude,
            "conditioning": self.conditioning if self.explained else None,  # JSON has no NaN
            "remarks": self.remarks,
            "nodes": [{**vars(entry), "error": entry.error} for entry in self.entries],
        }

    def by_module(self, depth: int | None = None) -> Audit:
        """The books of modules instead of nodes: what flowed into each, out of it, and away in it, by cause.

        What a module's nodes hand one another is in neither sum, so that every level adds up to the same seed:
        Σ absorbed + Σ error + Σ inputs = seed, and in − out − absorbed = error in every module.

        Args:
            depth: how many parts of the module path count: of `encoder.layer.3.output`, 3 leave `encoder.layer.3`.
                0: the model as a whole; `None`: all. What is in no module but the model is called `(model)`.
        """
        return fold(self, depth)

    def sorted(self, by: Sort = "absorbed") -> Audit:
        """The same books, the largest entries first.

        Args:
            by: "absorbed" (Σ of its size over the causes), "error", "relevance" (what flowed in), or "order" (from the
                output to the inputs, as relevance passes them).
        """
        return replace(self, entries=ordered(self.entries, by))

    def suspects(self, tolerance: float = 1e-4) -> list[Entry]:
        """The nodes whose books do not balance, the worst first: where a rule is wrong, or an op of one's own.

        Args:
            tolerance: the error that is allowed, as a share of Σ|R| over the inputs.
        """
        allowed = tolerance * self.magnitude
        # A NaN is within no bound.
        return [entry for entry in ordered(self.entries, "error") if not abs(entry.error) <= allowed]

    def table(self, limit: int | None = None, sort: Sort = "absorbed", depth: int | None = None) -> Any:
        """The books as a rich table: what flowed in, out, and to whom else: bias, constant, softmax, ….

        Args:
            limit: so many rows; the others are summed up in one.
            sort: as `sorted` takes it.
            depth: of `by_module`, instead of nodes.
        """
        books = self if depth is None else self.by_module(depth)
        return books_table(books, sort, limit)

    def __str__(self) -> str:
        """The table as text: the largest entries, and the others in one row."""
        return as_text(self.table(SHOWN_ROWS))

    def __repr__(self) -> str:
        """How many entries there are, and what they account for."""
        what = "modules" if self.folded else "nodes"
        return f"Audit({len(self.entries)} {what}; seed {self.seed:.6g}, error {self.error:.2e})"

    def _repr_html_(self) -> str:
        return as_html(self.table(SHOWN_ROWS))


SHOWN_ROWS = 40
"""How many entries a notebook shows, and `print`."""
CANCELLING = 1e4
"""From this conditioning on float32 keeps no more than three digits of a share."""
WHOLE = "(model)"
"""What the nodes are called that are in no module but the model itself."""
SORTS: dict[str, Callable[[Entry], float]] = {
    "absorbed": lambda entry: -sum(map(abs, entry.absorbed.values())),
    "error": lambda entry: -_size(entry.error),
    "relevance": lambda entry: -_size(entry.relevance_in),
    "order": lambda entry: 0.0,
}
"""The largest first; "order": as relevance passes them."""


def remarks(audit: Audit) -> list[str]:
    """See `Audit.remarks`."""
    found = []
    if audit.explained and not audit.magnitude:
        taking = ordered(audit.entries, "absorbed")[:1]
        causes = [
            max(entry.absorbed, key=lambda cause: abs(entry.absorbed[cause])) for entry in taking if entry.absorbed
        ]
        most = "".join(f": most is taken at {_place(taking[0])}, by {cause}" for cause in causes)
        found.append(f"No relevance arrives at the inputs{most}.")
    if audit.conditioning >= CANCELLING and audit.widest is not None:
        found.append(
            f"Σ|R| reaches {audit.conditioning:.0e} times what is explained, at {_place(audit.widest)}: shares of "
            "opposite signs cancel, and float32 keeps few digits of what is left; take a composite whose shares "
            "cancel less (one with α-β, γ or a larger ε), or a model in float64."
        )
    return found


def _place(entry: Entry) -> str:
    return f"{entry.node} of {entry.module}" if entry.module else entry.node


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
            max((entry.magnitude for entry in group), key=_size),
        )
        for path, group in groups.items()
    ]
    return Audit(entries, audit.seed, audit.inputs, audit.magnitude, audit.explained, dict(flows), folded=True)


def absorbed_by(entries: Sequence[Entry]) -> dict[str, float]:
    """What left the flow at these, by cause."""
    causes: defaultdict[str, float] = defaultdict(float)
    for entry in entries:
        for cause, share in entry.absorbed.items():
            causes[cause] += share
    return dict(causes)


def books_table(audit: Audit, sort: Sort, limit: int | None) -> Any:
    """A rich table with a column for each cause; rows beyond the limit are summed up, so that all adds up."""
    entries = ordered(audit.entries, sort)
    causes = [cause for cause, _ in sorted(audit.absorbed.items(), key=lambda item: -_size(item[1]))]
    causes = [cause for cause in causes if any(entry.absorbed.get(cause) for entry in entries)]
    names = ["module", "nodes", "rules"] if audit.folded else ["node", "module", "op", "rule"]
    sizes = f", conditioning {audit.conditioning:.3g}" if audit.explained else ""
    table = plain_table(
        title=f"seed {audit.seed:.6g} = inputs + absorbed, error {audit.error:.2e}{sizes}",
        title_justify="left",
        caption="\n".join([FIRST[sort], *audit.remarks]),
        caption_justify="left",
    )
    for column in names:
        table.add_column(column, overflow="fold")
    for column in ("in", "out", *causes, "error"):
        table.add_column(column, justify="right")

    def add(cells: Sequence[str], sums: Sequence[float | None], absorbed: dict[str, float], error: float) -> None:
        shares = [f"{absorbed[cause]:.4g}" if absorbed.get(cause) else "–" for cause in causes]
        flows = ["" if value is None else f"{value:.5g}" for value in sums]
        table.add_row(*cells, *flows, *shares, f"{error:.1e}")

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
        table.add_row(f"input {name}", *blank, "", f"{share:.5g}")
    return table


def _size(value: float) -> float:
    """How large it is; NaN is larger than everything, so that nobody misses it."""
    return abs(value) if value == value else float("inf")
