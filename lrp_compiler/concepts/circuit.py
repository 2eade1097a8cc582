"""An attribution graph as data: nodes, edges, what is left of it, and the file that circuit viewers read."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.files import atomic_path

LOGIT = "logit"
"""The path of the explained node."""
REST = "rest"


@dataclass(frozen=True)
class Node:
    """A node.

    Args:
        id: what tells it apart: `features.28:50`, `layer.3:17@4` (a channel at a position), `layer.3:rest`,
            `input_ids:2`, `logit`.
        layer: path of the value, name of the input, or "logit".
        unit: number of the channel, head or feature; None: it is none.
        position: in the sequence; None: all of them.
        relevance: what it has of the explained value.
        label: what it is called in pictures.
    """

    id: str
    layer: str
    unit: int | None
    position: int | None
    relevance: float
    label: str

    @property
    def rest(self) -> bool:
        """Whether it is all of a layer that is no node of its own."""
        return self.id == f"{self.layer}:{REST}"


@dataclass(frozen=True)
class Edge:
    """Relevance that one node hands to another, past all other layers of the graph.

    Args:
        source: id of the lower node, which gets it.
        target: id of the upper node, whose relevance it was.
        relevance: how much.
    """

    source: str
    target: str
    relevance: float


@dataclass(frozen=True)
class Graph:
    """The attribution graph of one row, made by `graph`.

    Args:
        nodes: the explained one first, then layer by layer.
        edges: between them.
        layers: paths of the layers, from the input to the output.
        inputs: names of the inputs.
        composite: by which rules.
        tokens: what the positions of the input are called; empty: nobody said.
        threshold: what was dropped, as `pruned` says.
    """

    nodes: list[Node]
    edges: list[Edge]
    layers: list[str]
    inputs: list[str]
    composite: str
    tokens: list[str] = field(default_factory=list)
    threshold: float = 0.0

    def __getitem__(self, id: str) -> Node:
        """The node of this id; raises `KeyError` if there is none."""
        for node in self.nodes:
            if node.id == id:
                return node
        raise KeyError(id)

    def into(self, id: str) -> dict[str, float]:
        """What a node gets, by the id of the upper node: without pruning they add up to its relevance."""
        return {edge.target: edge.relevance for edge in self.edges if edge.source == id}

    def out_of(self, id: str) -> dict[str, float]:
        """What a node hands on, by the id of the lower node; what is missing in its relevance was absorbed."""
        return {edge.source: edge.relevance for edge in self.edges if edge.target == id}

    @property
    def heading(self) -> str:
        """By which rules, and what is left out."""
        left_out = f"; edges below {self.threshold:.2g} of what reaches a layer are left out" * bool(self.threshold)
        return f"composite {self.composite}{left_out}"

    def pruned(self, threshold: float) -> Graph:
        """Without edges that carry less than this share of all that reaches the lower node's layer, and without nodes
        that then have none."""
        layer = {node.id: node.layer for node in self.nodes}
        reached: defaultdict[str, float] = defaultdict(float)
        for edge in self.edges:
            reached[layer[edge.source]] += abs(edge.relevance)
        kept = [edge for edge in self.edges if abs(edge.relevance) >= threshold * reached[layer[edge.source]]]
        ends = {LOGIT, *(edge.source for edge in kept), *(edge.target for edge in kept)}
        nodes = [node for node in self.nodes if node.id in ends]
        return replace(self, nodes=nodes, edges=kept, threshold=max(threshold, self.threshold))

    def to_dict(self, *, slug: str = "graph", scan: str = "", prompt: str = "") -> dict[str, Any]:
        """As attribution graphs are written for circuit viewers (circuit-tracer's, Neuronpedia's).

        `metadata`, `qParams`, `nodes` (`node_id`, `feature`, `layer`, `ctx_idx`, `feature_type`, `jsNodeId`, `clerp`,
        `influence`, …) and `links` (`source` → `target`, `weight`). Units are "cross layer transcoder", the rest of a
        layer "mlp reconstruction error", since viewers know no others; `relevance` and `path` stand beside that.

        Args:
            slug: the graph's name in a viewer.
            scan: the model's.
            prompt: the text that was explained.
        """
        number = {path: at for at, path in enumerate(self.layers)}
        ids = {node.id: _ids(node, number, self.inputs) for node in self.nodes}
        tokens = self.tokens or [
            str(at) for at in range(1 + max((node.position or 0 for node in self.nodes), default=0))
        ]
        influence = self._influence()
        return {
            "metadata": {
                "slug": slug,
                "scan": scan,
                "transcoder_list": [],
                "prompt_tokens": tokens,
                "prompt": prompt or "".join(tokens),
                "node_threshold": self.threshold,
                "schema_version": 1,
                "info": {"generator": "lrp_compiler", "composite": self.composite, "layers": self.layers},
            },
            "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
            "nodes": [
                {
                    **_described(node, number, len(tokens)),
                    "node_id": ids[node.id],
                    "jsNodeId": ids[node.id],
                    "influence": influence[node.id],
                    "relevance": node.relevance,
                    "path": node.id,
                }
                for node in self.nodes
            ],
            "links": [
                {"source": ids[edge.source], "target": ids[edge.target], "weight": edge.relevance}
                for edge in self.edges
            ],
        }

    @boundary("write the graph")
    def save(self, path: str | os.PathLike[str], *, slug: str = "graph", scan: str = "", prompt: str = "") -> None:
        """Write `to_dict` as JSON, whole or not at all."""
        text = json.dumps(self.to_dict(slug=slug, scan=scan, prompt=prompt), ensure_ascii=False, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @boundary("draw the graph")
    def picture(self, *, title: str = "") -> Any:
        """The graph, inputs below, the explained logit on top: a `matplotlib.figure.Figure` with `save(path)`.

        Red is relevance that speaks for what is explained, blue against it; the wider a line the more it carries, of
        all that reaches its lower layer. It is legible where it is as wide as a phone.

        Raises:
            LrpError: matplotlib is not there.
        """
        from lrp_compiler.pictures.circuit import Drawing, Line, Spot, circuit

        rows = [[node for node in self.nodes if node.layer == path] for path in [*self.inputs, *self.layers, LOGIT]]
        names = [*self.inputs, *self.layers, ""]
        spots = {
            node.id: Spot(at, node.label, node.relevance, node.rest)
            for at, row in enumerate(rows)
            for node in sorted(row, key=lambda one: (one.rest, one.position if one.position is not None else -1))
        }
        lines = [Line(edge.source, edge.target, edge.relevance) for edge in self.edges]
        return circuit(Drawing(names, spots, lines), "\n".join(filter(None, [title, self.heading])))

    @boundary("write the page")
    def html(self, path: str | os.PathLike[str] | None = None, *, title: str = "") -> str:
        """A page that shows it: a node that is pointed at lights what it gets and what it hands on. One file, no
        outside request.

        Args:
            path: where to write it; None: nowhere.
            title: of the page.

        Returns:
            The page.
        """
        from lrp_compiler.pictures.circuit_page import circuit_page
        from lrp_compiler.pictures.offline import written

        return written(circuit_page(self, title), path)

    def _influence(self) -> dict[str, float]:
        """By which viewers hide nodes: the share of all relevance that this node and those with more have."""
        ordered = sorted(self.nodes, key=lambda node: (node.id != LOGIT, -abs(node.relevance)))
        sizes = np.cumsum([abs(node.relevance) for node in ordered])
        return {node.id: float(size / (sizes[-1] or 1.0)) for node, size in zip(ordered, sizes, strict=True)}


def _ids(node: Node, number: Mapping[str, int], inputs: Sequence[str]) -> str:
    """`layer_feature_position`, by which viewers know what belongs together."""
    unit = -1 if node.rest else inputs.index(node.layer) if node.layer in inputs else node.unit or 0
    return f"{_level(node, number)}_{unit}_{node.position or 0}"


def _level(node: Node, number: Mapping[str, int]) -> str:
    return str(len(number) + 1) if node.layer == LOGIT else str(number[node.layer]) if node.layer in number else "E"


def _described(node: Node, number: Mapping[str, int], tokens: int) -> dict[str, Any]:
    """What a viewer wants to know of a node."""
    layer = _level(node, number)
    kind = {"E": "embedding", str(len(number) + 1): LOGIT}.get(layer, "cross layer transcoder")
    unit = node.unit if node.unit is not None else 0
    top = node.layer == LOGIT
    return {
        "feature": -1
        if node.rest
        else _cantor(number[node.layer], unit)
        if node.layer in number
        else node.position or 0,
        "layer": layer,
        "ctx_idx": tokens - 1 if top else node.position or 0,
        "feature_type": "mlp reconstruction error" if node.rest else kind,
        "token_prob": 0.0,
        "is_target_logit": top,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "clerp": node.label if node.layer not in number else f"{node.layer} {node.label}",
    }


def _cantor(layer: int, feature: int) -> int:
    """Layer and feature as one number, as viewers take them apart again."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature
