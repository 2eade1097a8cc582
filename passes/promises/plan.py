"""The promises of a relevance graph: which forward values it needs, who asked, and how each is had.

conv (z⁺) asks for relu            relu: kept, 3.2 MB
linear (ε) asks for flatten        flatten: rebuilt from relu by max_pool2d → flatten
linear (ε) asks for weight         weight: constant
add (ε → 0) asks for nothing       its operands: elided, where the strict policy promises both
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx

from lrp_compiler.base.counted import counted
from lrp_compiler.base.tables import as_html, as_text, plain_table
from lrp_compiler.passes.graph import assignment, is_tensor, module_path

from .ledger import Ledger, nbytes
from .planner import Decision

if TYPE_CHECKING:
    from lrp_compiler.base.plain_table import PlainTable

aten = torch.ops.aten

Resolution = Literal["kept", "rebuilt", "constant", "elided"]

STRICT = {
    "addition",
    "sum",
    "average",
    "softmax",
}
"""Kinds of operations at which the paper's system always promises: its policy, to compare with, no facts about ops."""
STRICT_OPS = {aten.cat.default, aten.stack.default, aten.unbind.int, aten.slice.Tensor, aten.select.int}
"""Operations at which it does whatever their kind: concatenations, and the pieces that unbind becomes."""


@dataclass(frozen=True)
class Promise:
    """One forward value that the relevance graph needs, or would need under the strict policy.

    Args:
        value: its node in the forward graph.
        module: the path of the module that computes it.
        nbytes: its size, at the example's sizes.
        resolution: "kept" (the forward graph hands it over), "rebuilt" (by `chain` from `args`), "constant" (a weight,
            or computed from weights alone) or "elided" (relevance passed in unit form: nobody asked).
        origins: the nodes whose rules asked for it.
        args: the values that rebuilding starts from.
        chain: the nodes that rebuilding computes, in order; the value itself is the last.
        nested: whether one of `args` is promised itself.
    """

    value: str
    module: str
    nbytes: int
    resolution: Resolution
    origins: tuple[str, ...]
    args: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()
    nested: bool = False


@dataclass
class Plan:
    """All promises and what they come to; printed as a table, iterated as `Promise`s.

    Args:
        promises: in the order of the forward graph.
        budget: share of the promised bytes that was allowed.
        promised_bytes: what the default policy holds.
        kept_bytes: what the forward graph hands over, weights and inputs apart: what is kept, be it for a value that is
            rebuilt from it.
        held_bytes: what this plan holds at once, at most: what is kept and the largest rebuilt segment.
        rebuilt_nodes: nodes of the forward graph that are computed twice.
        rebuilt_share: their cost, as a share of the forward graph's.
        loops_again: loops that keep their states at checkpoints, and go through their steps again.
        steps: how many steps such a loop of open length is reckoned with; 0: there is none.
        strict: operations on the way of relevance at which the paper's strict policy promises.
    """

    promises: list[Promise] = field(default_factory=list)
    budget: float = 1.0
    promised_bytes: int = 0
    kept_bytes: int = 0
    held_bytes: int = 0
    rebuilt_nodes: int = 0
    rebuilt_share: float = 0.0
    strict: int = 0
    loops_again: int = 0
    steps: int = 0

    def __iter__(self) -> Iterator[Promise]:
        """The promises, one by one."""
        return iter(self.promises)

    def __len__(self) -> int:
        """How many promises there are."""
        return len(self.promises)

    def of(self, *resolutions: Resolution) -> list[Promise]:
        """The promises resolved so."""
        return [promise for promise in self.promises if promise.resolution in resolutions]

    @property
    def reached(self) -> bool:
        """Whether the plan is within its budget."""
        return self.held_bytes <= self.budget * self.promised_bytes

    def summary(self) -> str:
        """The plan in one line."""
        counts = {name: len(self.of(name)) for name in ("kept", "rebuilt", "constant", "elided")}
        held = f"holds {megabytes(self.held_bytes)} of {megabytes(self.promised_bytes)}"
        floor = "" if self.reached else f" (budget {self.budget:g} cannot be reached)"
        again = f"computes {counted(self.rebuilt_nodes, 'node')} again, {self.rebuilt_share:.0%} of the forward"
        if counts["rebuilt"] and not self.rebuilt_nodes:
            again = "computes nothing again, since what is rebuilt are views"
        if self.loops_again:
            loops = "1 loop goes through its" if self.loops_again == 1 else f"{self.loops_again} loops go through their"
            again += f"; {loops} steps again" + (f" (sizes are those of {self.steps:,} steps)" if self.steps else "")
        return f"{', '.join(f'{count} {name}' for name, count in counts.items())}; {held}{floor}; {again}"

    def table(self, limit: int | None = None) -> PlainTable:
        """The plan as a rich table, constants left out; of `limit` rows."""
        table = plain_table(title=self.summary(), title_justify="left")
        for column in ("value", "module", "asked by", "resolution", "from"):
            table.add_column(column, overflow="fold")
        table.add_column("size", justify="right")
        shown = [promise for promise in self.promises if promise.resolution != "constant"]
        for promise in shown[:limit]:
            by = ", ".join(promise.origins[:3]) + (", …" if len(promise.origins) > 3 else "")
            source = ", ".join(promise.args[:3]) + (", …" if len(promise.args) > 3 else "")
            table.add_row(promise.value, promise.module, by, promise.resolution, source, megabytes(promise.nbytes))
        if limit is not None and len(shown) > limit:
            table.add_row(f"… {len(shown) - limit} more")
        return table

    def __str__(self) -> str:
        """The table as text."""
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return as_html(self.table(SHOWN_ROWS))

    def to_dict(self) -> dict[str, object]:
        """The plan as plain data: what the artefact stores."""
        rows = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(promise).items()}
            for promise in self.promises
        ]
        return {**self.__dict__, "promises": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`."""
        tuples: list[dict[str, Any]] = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
            for row in data["promises"]
        ]
        rows = [Promise(**row) for row in tuples]
        return cls(**{**data, "promises": rows})


SHOWN_ROWS = 40
"""How many promises a notebook shows."""


def megabytes(nbytes: float) -> str:
    """A size in words."""
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 1e4 else f"{nbytes} B"


def make_plan(
    ledger: Ledger,
    asked: Mapping[fx.Node, Sequence[fx.Node]],
    decision: Decision,
    reached: Sequence[fx.Node],
    budget: float,
    loops_again: int = 0,
) -> Plan:
    """The decision in the words of the graph.

    Args:
        ledger: the forward graph.
        asked: forward value → the nodes that asked for it; those that the relevance graph really reads.
        decision: the planner's.
        reached: the nodes that relevance passed.
        budget: what was allowed.
        loops_again: loops that go through their steps again.
    """
    promises = []
    for value, origins in asked.items():
        promises.append(_promise(ledger, value, tuple(origin.name for origin in origins), decision, asked))
    askers = {origin for origins in asked.values() for origin in origins}
    strict = [node for node in reached if _is_strict(node)]
    for node in strict:
        if node in askers:
            continue
        given = assignment(node)
        assert given is not None
        for name in given.active:
            operand = given.arguments[name]
            if operand not in asked:
                promises.append(
                    Promise(operand.name, module_path(operand), _size(operand, ledger), "elided", (node.name,))
                )
    order = {node.name: index for index, node in enumerate(ledger.nodes)}
    promises.sort(key=lambda promise: order[promise.value])
    total = sum(value.cost for value in ledger.values) or 1.0
    return Plan(
        promises,
        budget,
        decision.promised,
        sum(ledger.values[index].nbytes for index in decision.kept),
        decision.held,
        sum(1 for index in decision.rebuilt if not ledger.values[index].free),
        decision.cost / total,
        len(strict),
        loops_again,
        max(ledger.at.values(), default=0),
    )


def _size(node: fx.Node, ledger: Ledger) -> int:
    return nbytes(node, ledger.at) if is_tensor(node) else 0


def _promise(
    ledger: Ledger,
    value: fx.Node,
    origins: tuple[str, ...],
    decision: Decision,
    asked: Collection[fx.Node],
) -> Promise:
    index = ledger.index[value]
    place = (value.name, module_path(value))
    if ledger.values[index].given and value.op != "placeholder":
        return Promise(*place, _size(value, ledger), "constant", origins)
    if index not in decision.rebuilt:
        size = 0 if value.op == "placeholder" else _size(value, ledger)
        return Promise(*place, size, "kept", origins)
    chain, args, stack = set(), set(), [index]
    while stack:
        current = stack.pop()
        if current in chain or current in args:
            continue
        # A chain ends at the next promise: what that one does is its own affair.
        if current in decision.rebuilt and (current == index or ledger.nodes[current] not in asked):
            chain.add(current)
            stack.extend(ledger.values[current].sources)
        elif ledger.nodes[current].op != "get_attr":
            args.add(current)
    names = tuple(ledger.nodes[i].name for i in sorted(args))
    return Promise(
        *place,
        _size(value, ledger),
        "rebuilt",
        origins,
        names,
        tuple(ledger.nodes[i].name for i in sorted(chain)),
        any(ledger.nodes[i] in asked for i in args),
    )


def _is_strict(node: fx.Node) -> bool:
    given = assignment(node)
    return given is not None and (given.kind in STRICT or node.target in STRICT_OPS)
