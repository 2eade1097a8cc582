"""An explainer's two graphs as plain data: what the viewer's page and the export for Model Explorer are made of.

Every node of the forward graph and every node of the relevance graph is there once. A relevance node knows the forward
node that it explains; forward values that it reads are the promises, in the words of the plan.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

from torch import fx

from lrp_compiler.artefact import Artefact
from lrp_compiler.base.frames import innermost
from lrp_compiler.passes.forward import EXPLAINED
from lrp_compiler.passes.graph import (
    Assignment,
    assignment,
    module_path,
    note_of,
    operation_text,
    outputs,
    type_text,
)
from lrp_compiler.rules import RULES, USERS, RuleError, find
from lrp_compiler.torch_private import module_stack, op_name, pytree

from .books import Audit
from .listing import dim_names, with_names

GENERATED = {
    "seed": "What is put on the explained output: the logit (`value`), 1 (`one`), or a tensor given at run time.",
    "input": "Relevance has arrived: `R = x ⊙ g`, in total form, is what the explainer returns.",
    "rebuilt": "A promised forward value that is computed again, when relevance gets here.",
    "wait": "Makes what is rebuilt wait for relevance: it adds 0, made of what arrived.",
}
"""What made relevance nodes that no rule made."""


@dataclass
class Node:
    """One node of either graph.

    Args:
        name: unique in its graph.
        op: `linear`, `mul`, …; `input` and `constant` for what no op computes.
        call: how it is written as text, `linear(x, weight, bias)`.
        type: dtype and shape, `f32[batch, 3]`; `size` for a symbolic size, "" for what is no tensor.
        module: path of the module that it was traced in, or that of the forward node that it explains.
        inputs: positions of the nodes of the same graph that it reads.
        source: `file.py:12: code` of the model's own line that made it; "" if that is not known.
        rule: position of its rule in `GraphData.rules`; −1 where relevance does not pass.
        call_path: `module` with the calls of shared modules told apart, `layers.0@2.query`; "" where there are none.
        role: "input", "output" or "explained" (in the relevance graph: "seed", "relevance"), separated by blanks.
        explains: of a relevance node: position of the forward node that it explains.
        reads: of a relevance node: positions of the forward nodes that it reads.
        form: of a relevance node that is the relevance of a value: "unit" or "total", and of which.
    """

    name: str
    op: str
    call: str
    type: str
    module: str
    inputs: list[int]
    source: str = ""
    rule: int = -1
    call_path: str = ""
    role: str = ""
    explains: int = -1
    reads: list[int] = field(default_factory=list)
    form: str = ""


@dataclass
class GraphData:
    """Both graphs.

    Args:
        forward: nodes of the forward graph, in its order.
        relevance: nodes of the relevance graph, in its order.
        modules: path → class of the module ("" where it is not known), with all that a path lies in; "" is the model.
        rules: name, kind of operation, formula (the rule's docstring) and options of every rule that was assigned.
        promises: rows of the plan; nodes are positions in `forward`.
        books: node by node relevance in, out, absorbed by cause and error, and the flows along edges, of a real run;
            what is no finite number is `None`.
        summary: the model's class ("" where it has none of its own), composite (and why, if it was chosen), target,
            seed, inputs, outputs, versions, and the plan in one line.
    """

    forward: list[Node]
    relevance: list[Node]
    modules: dict[str, str]
    rules: list[dict[str, str]]
    promises: list[dict[str, Any]]
    books: dict[str, Any] | None
    summary: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, nodes by column."""
        columns = {
            "forward": ("name", "op", "call", "type", "module", "inputs", "source", "rule", "call_path", "role"),
            "relevance": ("name", "op", "call", "type", "inputs", "rule", "role", "explains", "reads", "form"),
        }
        tables = {
            graph: {column: [getattr(node, column) for node in getattr(self, graph)] for column in names}
            for graph, names in columns.items()
        }
        rest = ("modules", "rules", "promises", "books", "summary")
        return {**tables, **{name: getattr(self, name) for name in rest}}


def graph_data(artefact: Artefact, books: Audit | None = None) -> GraphData:
    """Describe an explainer, compiled or loaded.

    Args:
        artefact: its graphs, plan and provenance are read; nothing is run.
        books: the audit of a run, for statistics.
    """
    rules = _Rules()
    dims = dim_names(artefact)
    forward, position = _forward(artefact, rules)
    relevance = _relevance(artefact, forward, position, rules)
    for node in (*forward, *relevance):
        node.type = with_names(node.type, dims)
    return GraphData(
        forward,
        relevance,
        _modules(artefact.forward, forward),
        rules.rows,
        _promises(artefact, position),
        None if books is None else _books(books, position),
        _summary(artefact),
    )


def _forward(artefact: Artefact, rules: _Rules) -> tuple[list[Node], dict[str, int]]:
    graph = artefact.forward.graph
    nodes = [node for node in graph.nodes if node.op != "output"]
    position = {node: index for index, node in enumerate(nodes)}
    returned = {item for item in outputs(artefact.forward) if isinstance(item, fx.Node)}
    made = []
    for node in nodes:
        given = assignment(node)
        roles = {"input": node.op == "placeholder", "output": node in returned, "explained": EXPLAINED in node.meta}
        made.append(
            Node(
                node.name,
                _op(node),
                operation_text(node),
                _type(node),
                module_path(node) or _module_of_users(node),
                [position[operand] for operand in node.all_input_nodes],
                _source(node),
                -1 if given is None or not given.rule else rules.assigned(node, given),
                _call_path(node),
                " ".join(role for role, has in roles.items() if has),
            )
        )
    return made, {node.name: index for node, index in position.items()}


def _relevance(artefact: Artefact, forward: list[Node], position: dict[str, int], rules: _Rules) -> list[Node]:
    """The nodes of the joint graph that are none of the forward graph's."""
    nodes, origin = [], {}
    for node in artefact.module.graph.nodes:
        known = _forward_name(node, position)
        if known is not None:
            origin[node] = position[known]
        elif node.op != "output":
            nodes.append(node)
    index = {node: place for place, node in enumerate(nodes)}
    own = len(artefact.about.outputs)
    returned = outputs(artefact.module)
    arrived: dict[fx.Node, list[str]] = {}
    for entry, item in zip(artefact.about.relevance, returned[own:], strict=True):
        if isinstance(item, fx.Node) and entry.form in ("total", "unit"):
            arrived.setdefault(item, []).append(entry.input)
    explained = next((place for place, node in enumerate(forward) if "explained" in node.role), len(forward) - 1)
    made: list[Node] = []
    for node in nodes:
        note = note_of(node)
        operands = list(node.all_input_nodes)
        explains = position.get(note.get("explains", ""), -1)
        if explains < 0:
            explains = _place(node, index, made, origin, position, explained)
        rule = note.get("rule", "seed" if node.op == "placeholder" else "")
        made.append(
            Node(
                node.name,
                _op(node),
                operation_text(node),
                _type(node),
                forward[explains].module,
                [index[operand] for operand in operands if operand in index],
                rule=rules.generated(rule) if rule in GENERATED else forward[explains].rule,
                role="seed" if node.op == "placeholder" else "relevance" if node in arrived else "",
                explains=explains,
                reads=[origin[operand] for operand in operands if operand in origin],
                form=f"{note['form']} of {note['of']}" if "form" in note else "",
            )
        )
    return made


def _forward_name(node: fx.Node, position: dict[str, int]) -> str | None:
    """The forward node that a node of the joint graph is; `None` for a node of the relevance graph."""
    note = note_of(node)
    if note.get("phase") == "forward":
        return str(note["name"]) if note["name"] in position else None
    # Files keep no notes of inputs, weights and symbolic sizes.
    return node.name if not note and node.name in position else None


def _place(
    node: fx.Node,
    index: dict[fx.Node, int],
    made: list[Node],
    origin: dict[fx.Node, int],
    position: dict[str, int],
    otherwise: int,
) -> int:
    """Where a node without a note belongs: to what reads it, else to what it reads."""
    for user in node.users:
        name = note_of(user).get("explains")
        if name in position:
            return position[name]
    for operand in node.all_input_nodes:
        if operand in index:
            return made[index[operand]].explains
    return next((origin[operand] for operand in node.all_input_nodes if operand in origin), otherwise)


class _Rules:
    """The rules that are in use, each with its options once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self._known: dict[tuple[str, ...], int] = {}

    def assigned(self, node: fx.Node, given: Assignment) -> int:
        options = ", ".join(f"{name} = {value}" for name, value in given.options.items() if not callable(value))
        return self._row(given.rule, given.kind, _formula(node, given), options)

    def generated(self, name: str) -> int:
        return self._row(name, "", GENERATED[name], "")

    def _row(self, rule: str, kind: str, formula: str, options: str) -> int:
        key = (rule, kind, formula, options)
        if key not in self._known:
            self._known[key] = len(self.rows)
            self.rows.append({"rule": rule, "kind": kind, "formula": formula, "options": options})
        return self._known[key]


def _formula(node: fx.Node, given: Assignment) -> str:
    """The docstring of the rule, or of the user's function, up to its arguments."""
    op = given.op(node)
    operator = find(op)
    if operator is None:
        return ""
    function: Any = RULES.get((operator.family, given.rule))
    if operator.family == USERS:
        try:
            function = operator.describe(op)
        except RuleError:  # the function did not travel in the file
            function = None
    text = inspect.getdoc(function) or "" if function is not None else ""
    return re.split(r"\n\s*(?:Args|Returns|Raises):", text)[0].strip()


def _op(node: fx.Node) -> str:
    if node.op in ("placeholder", "get_attr"):
        return "input" if node.op == "placeholder" else "constant"
    target: Any = node.target
    return str(op_name(target) or getattr(target, "__name__", target))


def _type(node: fx.Node) -> str:
    return type_text(node).removeprefix(": ")


def _source(node: fx.Node) -> str:
    """`file.py:12: code` of the innermost line outside torch: what torch's own modules do, their op says."""
    found = innermost(node.meta.get("stack_trace"), own=True)
    return "" if found is None or found.path.startswith("torch/fx/") else str(found.short)


def _module_of_users(node: fx.Node) -> str:
    """A weight lies where it is used: in the innermost module that holds all of its users."""
    paths = [module_path(user) for user in node.users]
    if node.op != "get_attr" or not paths:
        return ""
    steps = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))


def _call_path(node: fx.Node) -> str:
    """Where the node was traced, as `Node.call_path`."""
    steps: list[str] = []
    before, last = "", ""
    for key, path, _ in module_stack(node):
        call = key.partition("@")[2]
        if path != before and path.startswith(f"{before}." if before else ""):
            step = path.removeprefix(before).lstrip(".")
            steps.append(f"{step}@{call}" if call not in ("", last) else step)
            before, last = path, call
    return ".".join(steps) if "@" in "".join(steps) and before == module_path(node) else ""


def _modules(module: fx.GraphModule, nodes: Iterable[Node]) -> dict[str, str]:
    classes: dict[str, str] = {}
    for node in module.graph.nodes:
        for _, path, kind in module_stack(node):
            classes.setdefault(path, kind)
    paths = {""}
    for node in nodes:
        parts = node.module.split(".") if node.module else []
        paths.update(".".join(parts[: depth + 1]) for depth in range(len(parts)))
    return {path: classes.get(path, "") for path in sorted(paths)}


def _promises(artefact: Artefact, position: dict[str, int]) -> list[dict[str, Any]]:
    rows = []
    for promise in artefact.plan:
        row = asdict(promise)
        del row["module"]
        row["value"] = position.get(promise.value, -1)
        for key in ("origins", "args", "chain"):
            row[key] = [position[name] for name in row[key] if name in position]
        if row["value"] >= 0:
            rows.append(row)
    return rows


def _books(books: Audit, position: dict[str, int]) -> dict[str, Any]:
    rows = {
        "seed": books.seed,
        "inputs": books.inputs,
        "absorbed": books.absorbed,
        "error": books.error,
        "magnitude": books.magnitude,
        "nodes": [
            [position[entry.node], entry.relevance_in, entry.relevance_out, entry.absorbed, entry.error]
            for entry in books.entries
        ],
        "flows": [[position[node], position[operand], share] for (node, operand), share in books.flows.items()],
    }
    return dict(pytree.tree_map_only(float, lambda value: value if math.isfinite(value) else None, rows))


def _summary(artefact: Artefact) -> dict[str, Any]:
    about = artefact.about
    return {
        "model": _model_class(artefact),
        "composite": about.name,
        **({"why": about.why} if about.why else {}),
        "target": str(about.target),
        "seed": about.seed,
        "inputs": [str(spec) for spec in about.inputs],
        "outputs": [spec.name for spec in about.outputs],
        "relevance": [entry.key for entry in about.relevance],
        "plan": artefact.plan.summary(),
        "versions": about.versions,
    }


def _model_class(artefact: Artefact) -> str:
    """The name of the model's class; "" of what was no module, and of an ONNX file, whose module is ours."""
    for node in artefact.forward.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            # torch.export gives the class as a string, tracing as the class itself.
            name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"
            if path == "" and not name.startswith("lrp_compiler."):
                return name.rpartition(".")[2]
    return ""
