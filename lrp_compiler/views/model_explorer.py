"""An export for Google's Model Explorer: both graphs in its JSON format, promises and relevance laid over them.

    explainer.to_model_explorer("graph.json", x)      →  graph.json, graph.relevance.json

The first file is opened like a model; the second is node data: the relevance that enters each node. Fields are those of
the package ai-edge-model-explorer (`graph_builder.py`, `node_data_builder.py`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lrp_compiler.base.files import atomic_path

from .graph_data import GraphData, Node

GRAPH = "explainer"
COLOURS = {"kept": "#3d7bea", "rebuilt": "#e07b1f", "constant": "#8b93a3", "elided": "#22a07a"}


def write_model_explorer(data: GraphData, path: str | os.PathLike[str]) -> list[Path]:
    """Write the graph and, where `data` has the books of a run, its node data beside it.

    Args:
        data: both graphs.
        path: of the graph; the node data lies beside it, ending in `.relevance.json`.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    written = [Path(path)]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(graph_collection(data), ensure_ascii=False), encoding="utf-8")
        if data.books is not None:
            written.append(Path(path).with_suffix(".relevance.json"))
            values = json.dumps(node_data(data), ensure_ascii=False)
            temporary.with_suffix(".relevance.json").write_text(values, encoding="utf-8")
    return written


def graph_collection(data: GraphData) -> dict[str, Any]:
    """One graph with the layers `forward` and `relevance`, modules within; promises as edge overlays."""
    nodes = [_forward(data, node) for node in data.forward] + [_relevance(data, node) for node in data.relevance]
    overlays = [
        {"name": resolution, "edgeColor": colour, "edgeWidth": 2, "edges": _edges(data, resolution)}
        for resolution, colour in COLOURS.items()
    ]
    tasks = {
        "edgeOverlaysDataListLeftPane": [
            {"type": "edge_overlays", "name": "promises", "overlays": [row for row in overlays if row["edges"]]}
        ]
    }
    summary = {"": {name: str(value) for name, value in data.summary.items()}}
    graph = {"id": GRAPH, "nodes": nodes, "groupNodeAttributes": summary, "tasksData": tasks}
    return {"label": f"explainer, {data.summary['composite']}", "graphs": [graph]}


def node_data(data: GraphData) -> dict[str, Any]:
    """Relevance that enters each node of a run: red above 0, blue below, white is 0."""
    if data.books is None:
        return {}
    values = {_id("forward", data.forward[node]): entered for node, entered, *_ in data.books["nodes"]}
    limit = max(map(abs, values.values()), default=0.0) or 1.0
    results = {name: {"value": value, "bgColor": _colour(value / limit)} for name, value in values.items()}
    return {GRAPH: {"name": "relevance", "results": results}}


def _colour(share: float) -> str:
    """From blue (−1) by white (0) to red (1), by the root of the share, so that small ones show."""
    end = (0xD6, 0x34, 0x2C) if share > 0 else (0x21, 0x66, 0xC8)
    weight = abs(share) ** 0.5
    return "#" + "".join(f"{round(255 + (channel - 255) * weight):02x}" for channel in end)


def _id(graph: str, node: Node) -> str:
    return f"{graph}/{node.name}"


def _namespace(graph: str, module: str) -> str:
    return "/".join([graph, *filter(None, module.split("."))])


def _attributes(**given: str) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in given.items() if value]


def _node(data: GraphData, graph: str, node: Node, sources: list[str], namespace: str, **more: str) -> dict[str, Any]:
    rule = data.rules[node.rule] if node.rule >= 0 else {"rule": "", "formula": "", "options": ""}
    return {
        "id": _id(graph, node),
        "label": node.op,
        "namespace": namespace,
        "attrs": _attributes(
            name=node.name,
            call=node.call,
            rule=rule["rule"],
            options=rule["options"],
            formula=rule["formula"],
            role=node.role,
            **more,
        ),
        "incomingEdges": [
            {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(place)}
            for place, source in enumerate(sources)
        ],
        "outputsMetadata": [{"id": "0", "attrs": _attributes(shape=node.type)}],
    }


def _forward(data: GraphData, node: Node) -> dict[str, Any]:
    sources = [_id("forward", data.forward[operand]) for operand in node.inputs]
    return _node(data, "forward", node, sources, _namespace("forward", node.module), source=node.source)


def _relevance(data: GraphData, node: Node) -> dict[str, Any]:
    explained = data.forward[node.explains]
    sources = [_id("relevance", data.relevance[operand]) for operand in node.inputs]
    sources += [_id("forward", data.forward[operand]) for operand in node.reads]
    namespace = f"{_namespace('relevance', node.module)}/{explained.name}"
    return _node(data, "relevance", node, sources, namespace, explains=explained.name, form=node.form)


def _edges(data: GraphData, resolution: str) -> list[dict[str, str]]:
    """From what holds the value to the first node of the rule that asked, or to the operation where none was made."""
    first: dict[int, str] = {}
    for node in data.relevance:
        first.setdefault(node.explains, _id("relevance", node))
    edges = []
    for promise in data.promises:
        if promise["resolution"] != resolution:
            continue
        holders = promise["args"] if resolution == "rebuilt" and promise["args"] else [promise["value"]]
        for holder in holders:
            for origin in promise["origins"]:
                target = first.get(origin, _id("forward", data.forward[origin]))
                edges.append({"sourceNodeId": _id("forward", data.forward[holder]), "targetNodeId": target})
    return edges
