"""The page of an attribution graph: one file, offline; a node that is pointed at lights what it gets and hands on."""

from __future__ import annotations

from typing import Any

from lrp_compiler.base.run import number

from .offline import offline_page

LEGEND = (
    'Point at a node, or tap it. Lines <span class="for">speak for</span> what is explained, or '
    '<span class="against">against</span> it; the wider, the more of what reaches the lower layer.'
)
DIGITS = 4


def circuit_page(graph: Any, title: str = "") -> str:
    """The page.

    Args:
        graph: an attribution graph.
        title: in the heading; default: that it is a circuit.
    """
    main = (
        '<section aria-label="Facts" id="facts" aria-live="polite"></section>'
        '<section id="graph" aria-label="Graph"></section>'
    )
    name = title or "Who handed what to whom?"
    return offline_page(name, graph.heading, LEGEND, main, _data(graph), ("answer.css", "circuit.css"), "circuit.js")


def _data(graph: Any) -> dict[str, Any]:
    """Rows from the explained node down to the inputs, and edges by number of node."""
    paths = [graph.nodes[0].layer, *reversed(graph.layers), *graph.inputs]
    rows = [(path, [node for node in graph.nodes if node.layer == path]) for path in dict.fromkeys(paths)]
    place = {node.id: at for at, node in enumerate(node for _, nodes in rows for node in nodes)}
    return {
        "rows": [
            {
                "name": path,
                "nodes": [
                    {"label": node.label, "id": node.id, "relevance": _short(node.relevance), "rest": node.rest}
                    | {"said": number(node.relevance)}
                    for node in nodes
                ],
            }
            for path, nodes in rows
            if nodes
        ],
        "edges": [
            [place[edge.source], place[edge.target], _short(edge.relevance), number(edge.relevance)]
            for edge in graph.edges
        ],
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
