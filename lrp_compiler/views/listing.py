"""The explainer's graph as text, one line a node.

    node                                            relevance     rule     explains  module   promises
    matmul: f32[batch, 4] = matmul(mul, fc_weight)  unit of relu  epsilon  linear_1  classes  fc_weight: constant

Read from the top: the forward graph, each operation with its rule and with what became of the promise of its value;
then the relevance graph, each node with the rule that made it, the operation that it explains, the forward values that
it reads, and, where it *is* the relevance of a forward value, the form that has: `total` (R) or `unit` (g, R = a ⊙ g).
Behind a loop stands one step of it, each node as `loop/node`, which reads others of the same step by their own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

from torch import fx

from lrp_compiler.artefact import Artefact
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.tables import plain_table
from lrp_compiler.passes.graph import (
    Assignment,
    Scan,
    assignment,
    inside,
    module_path,
    nearest,
    note_of,
    operation,
    operation_text,
    outputs,
    type_text,
)

WIDEST = 120
"""A longer cell (a concatenation of everything) does not push the columns of all other lines aside."""
OPERAND, STEP = "operand", "step"
"""What stands for an op where a loop's step reads something, and where it hands on what it made."""
SHOWN_LINES = 200
"""How much of it a notebook shows."""


@dataclass(frozen=True)
class Row:
    """One node of the explainer's graph.

    Args:
        name: of the node; inside a loop `loop/node`.
        op: the ATen overload, "input" or "constant"; of what a loop's step reads "operand", of what it hands on "step".
        type: dtype and shape, symbolic dims by name.
        operation: what it computes, as text.
        phase: "forward" or "relevance".
        form: "unit" or "total" where the node is the relevance of a forward value, else "".
        of: the forward values whose relevance it is, with commas between.
        rule: the rule that made it; of a forward node, the rule that explains it, with its options.
        explains: the forward node that it explains.
        module: path of the module of that forward node.
        promises: the forward values that it reads, each with its resolution; of a forward node, the resolution of its
            own promise and who asked.
    """

    name: str
    op: str
    type: str
    operation: str
    phase: str
    form: str = ""
    of: str = ""
    rule: str = ""
    explains: str = ""
    module: str = ""
    promises: str = ""


@dataclass(frozen=True)
class Listing:
    """Nodes of an explainer's graph: text when printed, `Row`s when iterated.

    Args:
        rows: in the order of the graph.
        returns: name of each result → the node that it is; empty where only some nodes were asked for.
        chosen: the composite and why, where it was chosen from the model's structure.
    """

    rows: Sequence[Row]
    returns: Mapping[str, str]
    chosen: str = ""

    def __iter__(self) -> Iterator[Row]:
        """The nodes, one by one."""
        return iter(self.rows)

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The nodes as plain data."""
        chosen = {"composite": self.chosen} if self.chosen else {}
        return {"nodes": [asdict(row) for row in self.rows], "returns": dict(self.returns), **chosen}

    def __str__(self) -> str:
        """One line a node; in front the composite, if it was chosen from the model's structure."""
        lines = [f"composite {self.chosen}"] if self.chosen else []
        lines += columns(
            ("node", "relevance", "rule", "explains", "module", "promises"),
            [
                (
                    f"{row.name}{': ' if row.type else ''}{row.type} = {row.operation}",
                    f"{row.form} of {row.of}" if row.form else "",
                    row.rule,
                    row.explains,
                    row.module,
                    row.promises,
                )
                for row in self.rows
            ],
        )
        if self.returns:
            lines.append("return " + ", ".join(f"{name}: {node}" for name, node in self.returns.items()))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return as_pre(str(self))


def show(artefact: Artefact, only: str | Sequence[str] = (), rule: str | None = None, op: str | None = None) -> Listing:
    """See `Explainer.show`."""
    rows = rows_of(artefact)
    chosen = chosen_rows(rows, only, rule, op)
    everything = len(chosen) == len(rows)
    about = artefact.about
    return Listing(chosen, _returns(artefact) if everything else {}, about.named_why if about.why else "")


def in_phase(rows: Iterable[Row], phase: str) -> list[Row]:
    """The rows of one phase, "forward" or "relevance"."""
    return [row for row in rows if row.phase == phase]


def summary_table(artefact: Artefact) -> Any:
    """What a notebook shows of an explainer: a rich table of what goes in, what comes out, and how."""
    table = plain_table(show_header=False, title="Explainer", title_justify="left")
    about = artefact.about
    phases = [note_of(node).get("phase") for node in artefact.module.graph.nodes]
    rows = {
        "inputs": "\n".join(map(str, about.inputs)),
        "outputs": "\n".join(map(str, about.outputs)),
        "relevance": "\n".join(str(entry.tensor) for entry in about.relevance),
        "composite": about.named_why,
        "target": f"{about.target}, seed {about.seed}",
        "nodes": f"{len(artefact.forward.graph.nodes) - 1} forward, {phases.count('relevance')} relevance",
        "promises": artefact.plan.summary(),
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def rows_of(artefact: Artefact) -> list[Row]:
    """A row for every node of the graph, those of a loop's step behind the loop."""
    names = dim_names(artefact)
    rules = _rules(artefact.forward)
    asked: dict[str, str] = {}
    for promise in artefact.plan:
        by = ", ".join(promise.origins)
        text = f"{promise.resolution} for {by}" if by else promise.resolution
        asked[promise.value] = f"{asked[promise.value]}; {text}" if promise.value in asked else text
    rows = []
    for node in artefact.module.graph.nodes:
        if node.op != "output":
            row = _row(node, names, rules, asked)
            rows += [row, *_steps(node, row, str(note_of(node).get("name", node.name)), names, rules)]
    return rows


def _rules(forward: fx.GraphModule, of: str = "") -> dict[str, Assignment]:
    """What explains each operation, those of steps as `loop/node`."""
    rules = {f"{of}{node.name}": given for node in forward.graph.nodes if (given := assignment(node)) is not None}
    for node in forward.graph.nodes:
        if isinstance(node.target, Scan):
            rules |= _rules(node.target.body, f"{of}{node.name}/")
    return rules


def _steps(
    node: fx.Node, row: Row, known: str, names: Mapping[str, str], rules: Mapping[str, Assignment]
) -> Iterator[Row]:
    """What a step of a loop does; nothing for other nodes.

    Args:
        node: of the graph.
        row: what is said of it.
        known: its name in the forward graph.
        names: of symbolic dims.
        rules: of operations, by the names of the forward graph.
    """
    loop = node.target
    if not isinstance(loop, Scan):
        return
    states = loop.states
    for at, inner in enumerate(loop.body.graph.nodes):
        step = replace(row, name=f"{row.name}/{inner.name}", form="", of="", rule="", promises="")
        module = module_path(inner) or row.module
        if inner.op == "output":
            handed = [str(one) for one in outputs(loop.body)]
            told = f"states {', '.join(handed[:states]) or 'none'}; results {', '.join(handed[states:]) or 'none'}"
            yield replace(step, op=STEP, type="", operation=told)
            continue
        type_ = with_names(type_text(inner).removeprefix(": "), names)
        if inner.op == "placeholder":
            how = "state, first" if at < states else "step of" if at < states + loop.slices else "always"
            yield replace(step, op=OPERAND, type=type_, operation=f"{how} {node.args[at]}")
            continue
        rule = _ruled(rules[name]) if row.phase == "forward" and (name := f"{known}/{inner.name}") in rules else ""
        text = with_names(operation_text(inner), names)
        made = replace(step, op=operation(inner), type=type_, operation=text, rule=rule, module=module)
        yield made
        yield from _steps(inner, made, f"{known}/{inner.name}", names, rules)


def _ruled(given: Assignment) -> str:
    """A rule with its options."""
    listed = ", ".join(f"{key}={value}" for key, value in given.options.items())
    return f"{given.rule}({listed})" if listed else str(given.rule or "")


def _row(node: fx.Node, names: Mapping[str, str], rules: Mapping[str, Assignment], asked: Mapping[str, str]) -> Row:
    note = note_of(node)
    kinds = {"placeholder": "input", "get_attr": "constant"}
    rule, promises = str(note.get("rule", "")), str(note.get("promises", ""))
    # Inputs and weights that come out of a file carry no note.
    phase = str(note.get("phase", "relevance" if "seed" in node.meta else "forward"))
    if phase == "forward":
        name = str(note.get("name", node.name))
        rule = _ruled(replace(rules[name], rule=rule)) if name in rules else rule
        promises = asked.get(name, "")
    return Row(
        node.name,
        kinds.get(node.op, operation(node)),
        with_names(type_text(node).removeprefix(": "), names),
        with_names(operation_text(node), names),
        phase,
        str(note.get("form", "")),
        str(note.get("of", "")),
        rule,
        str(note.get("explains", "")),
        str(note.get("module", "")),
        promises,
    )


def dim_names(artefact: Artefact) -> dict[str, str]:
    """torch's names of symbolic dims → the explainer's."""
    placeholders = artefact.module.graph.find_nodes(op="placeholder")
    return {
        str(size): name
        for node, spec in zip(placeholders, artefact.about.takes, strict=True)
        for size, name in zip(node.meta["val"].shape, spec.shape, strict=True)
        if isinstance(name, str)
    }


def with_names(text: str, names: Mapping[str, str]) -> str:
    """The text with the explainer's names of its symbolic dims."""
    return re.sub(r"\b[su]\d+\b", lambda found: names.get(found[0], found[0]), text)


def _returns(artefact: Artefact) -> dict[str, str]:
    return {spec.name: str(item) for spec, item in zip(artefact.about.returns, outputs(artefact.module), strict=True)}


def chosen_rows(rows: Sequence[Row], only: str | Sequence[str], rule: str | None, op: str | None) -> list[Row]:
    """The rows that every filter lets pass; each filter must let one pass by itself."""
    patterns = [only] if isinstance(only, str) else list(only)
    ops = {row.name: row.op for row in in_phase(rows, "forward")}
    passed = list(rows)
    for pattern in patterns:
        if not any(inside(row.module, pattern) for row in rows):
            raise InputError(
                f"only={pattern!r} matches no module of this model; near it: {nearest(pattern, _modules(rows))}."
            )
    if patterns:
        passed = [row for row in passed if any(inside(row.module, pattern) for pattern in patterns)]
    if rule is not None:
        rules = {row.rule.partition("(")[0] for row in rows}
        if rule not in rules:
            raise InputError(f"No node is made by a rule {rule!r}; there are {', '.join(sorted(rules - {''}))}.")
        passed = [row for row in passed if row.rule.partition("(")[0] == rule]
    if op is not None:
        if not any(_is_op(row.op, op) for row in rows):
            raise InputError(
                f"No node is an op {op!r}; near it: {nearest(op, map(short_name, {row.op for row in rows}))}."
            )
        passed = [row for row in passed if _is_op(row.op, op) or _is_op(ops.get(row.explains, ""), op)]
    return passed


def _modules(rows: Iterable[Row]) -> set[str]:
    """Paths of all modules that hold a node, and of those that hold these."""
    return {
        row.module.rsplit(".", cut)[0] if cut else row.module
        for row in rows
        for cut in range(row.module.count(".") + 1)
    }


def _is_op(target: str, name: str) -> bool:
    """Whether the op is called so: `aten.conv2d.default`, `aten.conv2d` or `conv2d`."""
    return name in (target, target.rpartition(".")[0], short_name(target))


def short_name(target: str) -> str:
    """The op without its namespace and overload: `conv2d`."""
    parts = target.split(".")
    return parts[1] if len(parts) > 2 else target


def as_pre(text: str) -> str:
    """Text for a notebook, cut off where it is long."""
    lines = text.splitlines()
    more = [f"… {len(lines) - SHOWN_LINES} more lines"] if len(lines) > SHOWN_LINES else []
    return f"<pre>{escape(chr(10).join(lines[:SHOWN_LINES] + more))}</pre>"


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The cells below one another."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table if len(row[column]) <= WIDEST) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
