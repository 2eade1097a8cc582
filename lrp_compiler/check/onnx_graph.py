"""What an explainer's ONNX file must be as a graph, whoever reads it. Needs onnx."""

from __future__ import annotations

import os
import re

import onnx

from lrp_compiler.base.counted import counted
from lrp_compiler.base.metadata import OPSETS
from lrp_compiler.export.onnx_notes import PREFIX

from .verification import Check

PASSES_ON = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten"}
"""What may stand between an input and the table that it looks up."""


def graph_checks(path: str | os.PathLike[str]) -> tuple[list[Check], dict[str, int]]:
    """The file's graph against what the documentation promises; and of inputs the rows of the tables they look up."""
    model = onnx.load(path, load_external_data=False)
    return [checker(path), _contract(model), _notes(model)], table_sizes(model)


def checker(path: str | os.PathLike[str]) -> Check:
    """What onnx itself says of the file."""
    try:
        onnx.checker.check_model(os.fspath(path), full_check=True)
    except Exception as error:
        return Check("checker and shape inference", False, str(error).strip().splitlines()[0])
    return Check("checker and shape inference", True, "onnx finds nothing wrong")


def _contract(model: onnx.ModelProto) -> Check:
    """What the documentation promises of the graph (reference/onnx-file.md)."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    wrong = [f"the domain {domain!r}" for domain in opsets if domain]
    wrong += [f"the function {function.name}" for function in model.functions]
    wrong += [f"opset {opsets.get('')}"] if opsets.get("") not in OPSETS else []
    unnamed = [
        value.name
        for value in (*model.graph.input, *model.graph.output)
        for dim in value.type.tensor_type.shape.dim
        if not dim.HasField("dim_value") and not dim.dim_param.isidentifier()
    ]
    wrong += [f"a size without a name in {unnamed[0]}"] if unnamed else []
    texts = [entry.value for node in model.graph.node for entry in node.metadata_props]
    texts += [entry.value for entry in model.metadata_props] + [node.doc_string for node in model.graph.node]
    wrong += ["a path of the machine that wrote it"] if any(re.search(r"(^|[\s\"'])/\w+/\w", t) for t in texts) else []
    if wrong:
        return Check("contract", False, "It has " + ", ".join(wrong))
    return Check(
        "contract", True, f"{counted(len(model.graph.node), 'node')} of opset {opsets['']}, IR {model.ir_version}"
    )


def _notes(model: onnx.ModelProto) -> Check:
    """Every node says what it is for."""
    phases = [
        {entry.key: entry.value for entry in node.metadata_props}.get(PREFIX + "phase") for node in model.graph.node
    ]
    counts = {phase: phases.count(phase) for phase in ("forward", "relevance")}
    # Casts of weights that are stored in half the bytes are for both.
    silent = [
        node for node, phase in zip(model.graph.node, phases, strict=True) if not phase and node.op_type != "Cast"
    ]
    told = {"predict": counts["forward"], "explain": counts["relevance"], "say neither": len(silent)}
    text = f"nodes that {', that '.join(f'{what}: {count:,}' for what, count in told.items())}"
    return Check("provenance", not silent and all(counts.values()), text)


def table_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Input → rows of the smallest table that it looks up."""
    rows = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    limits: dict[str, int] = {}
    for value in model.graph.input:
        reached = {value.name}
        for node in model.graph.node:
            if node.op_type in PASSES_ON and node.input[0] in reached:
                reached.add(node.output[0])
            elif node.op_type == "Gather" and node.input[1] in reached:
                table = node.input[0]
                table = made[table].input[0] if table in made and made[table].op_type == "Cast" else table
                if table in rows:
                    limits[value.name] = min(rows[table][0], limits.get(value.name, rows[table][0]))
    return limits
