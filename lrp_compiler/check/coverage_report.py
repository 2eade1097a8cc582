"""`coverage`: which nodes of a model have a rule, without compiling it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import UnsupportedNode
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.tables import as_html, as_text, plain_table
from lrp_compiler.capture import Model, capture
from lrp_compiler.compiler import choose_output
from lrp_compiler.passes import Watch, explainable_inputs, forward_graph
from lrp_compiler.passes.assign import analyse, reachable, uncovered
from lrp_compiler.passes.forward import Target, select_explained
from lrp_compiler.passes.graph import assignment, operation, outputs
from lrp_compiler.rules.composite import Composite


@dataclass(frozen=True)
class Coverage:
    """What the rules cover of a model.

    Args:
        nodes: operations of the forward graph.
        on_path: those that relevance passes on its way from the output to the inputs.
        ops: op → how many of those nodes.
        uncovered: the ones without a rule.
    """

    nodes: int
    on_path: int
    ops: dict[str, int]
    uncovered: list[UnsupportedNode]

    @property
    def covered(self) -> int:
        """Nodes on the path that have a rule."""
        return self.on_path - len(self.uncovered)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "nodes": self.nodes,
            "on_path": self.on_path,
            "covered": self.covered,
            "ops": self.ops,
            "uncovered": [node._asdict() for node in self.uncovered],
        }

    def table(self) -> Any:
        """The report as a rich table: one row an op, with the nodes that have no rule and the modules they are in."""
        missing = Counter(node.op for node in self.uncovered)
        title = f"{self.covered} of {counted(self.on_path, 'node')} on the relevance path covered ({self.nodes} in all)"
        table = plain_table(title=title, title_justify="left")
        table.add_column("op")
        table.add_column("nodes", justify="right")
        table.add_column("covered", justify="right")
        table.add_column("without a rule", overflow="fold")
        for op, count in sorted(self.ops.items(), key=lambda item: (-missing[item[0]], -item[1], item[0])):
            missed = [node for node in self.uncovered if node.op == op]
            places = [f"{node.node} in {node.module_path}" if node.module_path else node.node for node in missed]
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            table.add_row(op, str(count), str(count - missing[op]), ", ".join(places[:3]) + more)
        return table

    def __str__(self) -> str:
        """The table as text."""
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return as_html(self.table())


SEQUENCE_RANK = 3
"""An output with more dims than `[batch, sequence, classes]` is a map: all of it counts."""


@boundary("look at what is covered")
def coverage(
    model: Model, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, dynamic_shapes: Any = None
) -> Coverage:
    """Count which nodes of the model have a rule; takes what `compile` takes, and models that do not compile.

    Raises:
        CaptureError: torch.export cannot trace the model.
        FormatError: the `.pt2` file is no exported program.
        InputError: example inputs that do not fit, or nothing to explain.
    """
    captured = capture(model, args, kwargs, dynamic_shapes)
    with quiet():
        forward = forward_graph(captured, Watch())
    output = choose_output(captured)
    final: Any = outputs(forward)[output]
    position = "sum" if final.meta["val"].dim() > SEQUENCE_RANK else None
    explained = select_explained(forward, output, captured.outputs[output], Target(position=position))
    analyse(forward, explainable_inputs(forward), Composite("coverage"))
    needed = reachable(forward, explained)
    path = [node for node in forward.graph.nodes if node in needed and assignment(node) is not None]
    calls = [node for node in forward.graph.nodes if node.op == "call_function"]
    ops = Counter(map(operation, path))
    return Coverage(len(calls), len(path), dict(ops.most_common()), uncovered(forward, needed))
