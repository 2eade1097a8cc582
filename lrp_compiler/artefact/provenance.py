"""What an explainer was compiled from, and by which rules: plain data for its files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lrp_compiler.passes.graph import assignment
from lrp_compiler.rules import traits
from lrp_compiler.torch_private import expression, hint, known_size, statically_known_true


def source_hash(program: ExportedProgram) -> str:
    """SHA-256 of a captured model: its operations, the shapes and dtypes of its values, and all its weights.

    The same model captured again, or saved and loaded, has the same hash; the example inputs do not count, and neither
    does where the source code lies.
    """
    return hash_of(operations_of(program), weights_of(program))


def operations_of(program: ExportedProgram) -> str:
    """The operations of a program and the shapes and dtypes of its values, as text."""
    lines = []
    for node in program.graph.nodes:
        kind = "" if node.op == "output" else _kind(node.meta.get("val"))
        lines.append(f"{node.op} {node.target} {node.args} {dict(node.kwargs)} {kind}\n")
    return "".join(lines)


def weights_of(program: ExportedProgram) -> dict[str, Tensor]:
    """The tensors that a program holds, by name."""
    held = {**program.state_dict, **program.constants}
    return {name: tensor for name, tensor in held.items() if isinstance(tensor, Tensor)}


def hash_of(operations: str, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of operations and weights; see `source_hash`."""
    digest = hashlib.sha256(operations.encode())
    for name, held in sorted(weights.items()):
        for tensor in _plain(held):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            flat = flat.as_strided(flat.shape, (1,))  # a single element, or none, may have any stride
            digest.update(f"{name} {held.dtype} {list(held.shape)}\n".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: Any) -> list[Tensor]:
    """The tensors that hold its bytes: of a quantised weight several."""
    if not isinstance(value, Tensor):
        return []
    if hasattr(value, "__tensor_flatten__"):
        names, _ = value.__tensor_flatten__()
        return [tensor for name in names for tensor in _plain(getattr(value, name))]
    return [value if value.layout is torch.strided else value.to_dense()]


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


def table_rows(forward: fx.GraphModule, names: Sequence[str]) -> dict[str, int]:
    """Name of each input all of whose elements are looked up in tables → the rows of the smallest one.

    Args:
        forward: the forward graph.
        names: of its inputs, in order.
    """
    found: dict[str, int] = {}
    for placeholder, name in zip(forward.graph.find_nodes(op="placeholder"), names, strict=False):
        reached = [placeholder]
        for node in reached:  # grows
            for user in node.users:
                rows = _rows(user, node)
                if rows is not None:
                    found[name] = min(rows, found.get(name, rows))
                elif _has_all_elements(user, node):
                    reached.append(user)
    return found


def _has_all_elements(node: fx.Node, source: fx.Node) -> bool:
    """Whether a view, a copy or a cast leaves no element of its operand out."""
    known = traits(node.target)
    if not (known.free or known.copies) or node.meta["val"].dtype not in WHOLE:
        return False
    return statically_known_true(node.meta["val"].numel() >= source.meta["val"].numel())


def _rows(node: fx.Node, indices: fx.Node) -> int | None:
    """How many rows the table has in which a node looks these up."""
    if (
        node.target is not aten.embedding.default
        or node.args[1] is not indices
        or not isinstance(node.args[0], fx.Node)
    ):
        return None
    return known_size(node.args[0].meta["val"].shape[0])


aten = torch.ops.aten
WHOLE = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
"""Dtypes of indices."""

SPECIALISED = 2
"""The least size that torch.export vouches for; 1 is right as well, unless the model branches there."""


def size_ranges(
    symbols: Mapping[Any, str], ranges: Mapping[Any, Any], other_at_one: Collection[Any] = ()
) -> dict[str, tuple[int | None, int | None]]:
    """Name of each open size with bounds of its own → the least and the greatest that it was declared to have.

    Args:
        symbols: open sizes and their names.
        ranges: what the capture knows of them.
        other_at_one: those at which the model does something else where they are 1.
    """
    found = {}
    for symbol, name in symbols.items():
        if symbol in ranges:
            bounds = (ranges[symbol].lower, ranges[symbol].upper)
            low, high = (int(bound) if bound.is_Integer else None for bound in bounds)
            low = None if low is None or low <= SPECIALISED else low
            low = SPECIALISED if symbol in other_at_one and low is None else low
            if (low, high) != (None, None):
                found[name] = (low, high)
    return found
