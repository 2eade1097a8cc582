"""What an explainer was compiled from, and by which rules: plain data for its files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lrp_compiler.passes.graph import assignment
from lrp_compiler.torch_private import expression, hint


def source_hash(program: ExportedProgram) -> str:
    """SHA-256 of a captured model: its operations, the shapes and dtypes of its values, and all its weights.

    The same model captured again, or saved and loaded, has the same hash; the example inputs do not count, and neither
    does where the source code lies.
    """
    digest = hashlib.sha256()
    for node in program.graph.nodes:
        kind = "" if node.op == "output" else _kind(node.meta.get("val"))
        digest.update(f"{node.op} {node.target} {node.args} {dict(node.kwargs)} {kind}\n".encode())
    for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
        if isinstance(tensor, Tensor):
            plain = tensor if tensor.layout is torch.strided else tensor.to_dense()
            flat = plain.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _kind(value: Any) -> str:
    """A value as a loaded program knows it as well: a file makes tuples of lists, and says more of sizes."""
    if isinstance(value, Tensor):
        return f"{value.dtype}[{value.dim()}]"
    return f"({', '.join(map(_kind, value))})" if isinstance(value, list | tuple) else ""


def rules_used(forward: fx.GraphModule) -> list[dict[str, Any]]:
    """The rules of an assigned forward graph, most frequent first: kind, rule, options, and at how many nodes."""
    counts: Counter[str] = Counter()
    for node in forward.graph.nodes:
        given = assignment(node)
        if given is not None and given.rule:
            use = {"kind": given.kind, "rule": given.rule, "options": dict(given.options)}
            counts[json.dumps(use, sort_keys=True)] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{**json.loads(use), "nodes": count} for use, count in ordered]


def example_sizes(symbols: dict[Any, str], nodes: list[fx.Node]) -> dict[str, int]:
    """Name of each open size → the example's: one that the model surely takes."""
    sizes = {}
    for node in nodes:
        for size in node.meta["val"].shape:
            if isinstance(size, torch.SymInt) and expression(size) in symbols:
                sizes[symbols[expression(size)]] = hint(size)
    return sizes


SPECIALISED = 2
"""The least size that torch.export vouches for; smaller ones are right as well, wherever the model takes them."""


def size_ranges(symbols: Mapping[Any, str], ranges: Mapping[Any, Any]) -> dict[str, tuple[int | None, int | None]]:
    """Name of each open size with bounds of its own → the least and the greatest that it was declared to have."""
    found = {}
    for symbol, name in symbols.items():
        if symbol in ranges:
            bounds = (ranges[symbol].lower, ranges[symbol].upper)
            low, high = (int(bound) if bound.is_Integer else None for bound in bounds)
            low = None if low is None or low <= SPECIALISED else low
            if (low, high) != (None, None):
                found[name] = (low, high)
    return found
