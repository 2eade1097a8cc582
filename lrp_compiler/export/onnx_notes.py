"""What every node of an ONNX explainer says about itself: which rule made it, and what it explains.

    Div   lrp.phase = relevance   lrp.rule = epsilon   lrp.forward = linear_3   lrp.module = encoder.layer.1.dense

Viewers such as Netron show these under "metadata"; `onnx` reads them as `node.metadata_props`.
"""

from __future__ import annotations

import re
from typing import Any

from torch import fx

from lrp_compiler.passes.graph import note_of

PREFIX = "lrp."
NAMES = {
    "phase": "phase",  # "forward" or "relevance"
    "rule": "rule",
    "name": "forward",
    "explains": "forward",
    "module": "module",
    "form": "form",  # "unit" or "total"
    "of": "of",  # whose relevance the value is
    "promise": "promise",  # how its value is had where relevance asks for it
    "promises": "promises",  # that it reads
}
"""Key of a graph node's note → key of the file's, without the prefix."""
FX_NODE = "pkg.torch.onnx.fx_node"
"""Where torch's exporter writes the graph node that it translates, as fx prints it: `%mul_4 : [num_users=…`."""


def note_origins(model: Any, graph: fx.Graph) -> None:
    """Replace the exporter's notes, which hold source paths, by the explainer's.

    Args:
        model: the `onnx_ir.Model` as it was translated, before any node is rewritten.
        graph: the graph that it was translated from; its nodes carry `meta["custom"]["lrp"]`.
    """
    notes: dict[str, dict[str, str]] = {}
    for node in reversed(graph.nodes):
        # What an operation was written out into says what for by the operation that reads it.
        read_by = next((notes[user.name] for user in node.users if notes.get(user.name)), {})
        notes[node.name] = _note(node) or read_by
    for owner in (model.graph, *model.functions.values()):
        owner.metadata_props.clear()
        owner.doc_string = None
        for value in owner.inputs:
            value.metadata_props.clear()
        for node in owner.all_nodes():
            origin = re.match(r"%(\w+)", str(node.metadata_props.get(FX_NODE, "")))
            node.metadata_props.clear()
            node.metadata_props.update(notes.get(origin[1], {}) if origin else {})
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


def _note(node: fx.Node) -> dict[str, str]:
    note = note_of(node)
    kept = {PREFIX + NAMES[key]: str(value) for key, value in note.items() if key in NAMES and value}
    return dict(sorted(kept.items()))


def note_copies(model: Any) -> None:
    """The copies that tidying puts in front of outputs, one value's under two names, say what they are copies of."""
    for node in model.graph:
        source = node.inputs[0].producer() if node.op_type == "Identity" and not node.metadata_props else None
        if source is not None:
            node.metadata_props.update(source.metadata_props)
