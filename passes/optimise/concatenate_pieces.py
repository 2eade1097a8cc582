"""Pieces that are filled up with zeros to be added, and do not overlap, are laid side by side.

    pad(a, 0 in front, 5 behind) + pad(b, 2 in front, 3 behind) + …    →    cat(a, b, …)

This is how the relevance of a value comes together whose parts were read one by one: the steps of a scan, the heads of
a packed projection. The sum reads and writes the whole once for every part, which grows with the square of their
number; the concatenation does so once. What lies between the pieces is filled with zeros, as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.assign import zero_padding
from lrp_compiler.passes.graph import Result, inline, same_shape

from .sums import continues, is_sum, terms


@dataclass(frozen=True)
class Piece:
    """A term of a sum: `value` from `start` to `end` along `dim`, zeros elsewhere."""

    term: fx.Node
    value: fx.Node
    dim: int
    start: int
    end: int


def concatenate_pieces(module: fx.GraphModule) -> Result:
    """Rewrite the joint graph in place."""
    changed, declined = False, []
    for node in list(module.graph.nodes):
        if is_sum(node) and not continues(node, _alike):
            read = {term: _piece(term, node) for term in terms(node, _alike)}
            pieces = [piece for piece in read.values() if isinstance(piece, Piece)]
            declined += [(term.name, reason) for term, reason in read.items() if isinstance(reason, str)]
            if _rewrite(node, pieces):
                changed = True
            elif pieces:
                dims = {piece.dim for piece in pieces}
                apart = len(dims) == len(pieces)
                several = "its pieces lie along different dims" if apart else "its pieces overlap"
                declined.append((node.name, several if len(pieces) > 1 else "it has one piece"))
    if changed:
        module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _alike(term: fx.Node, root: fx.Node) -> bool:
    """Whether neither broadcasting nor a change of dtype lies between a term and its sum."""
    return same_shape(term, root) and term.meta["val"].dtype is root.meta["val"].dtype


def _rewrite(root: fx.Node, pieces: list[Piece]) -> bool:
    rows = [row for dim in dict.fromkeys(piece.dim for piece in pieces) for row in _rows(pieces, dim)]
    if not rows:
        return False
    taken = {piece.term for row in rows for piece in row}
    rest = [term for term in terms(root, _alike) if term not in taken]
    total: Any = None
    for row in rows:
        whole = inline(root, _concatenated(row, root), ([piece.value for piece in row],))
        total = whole if total is None else inline(root, torch.add, (total, whole))
    for term in rest:
        total = inline(root, torch.add, (total, term))
    total.meta = {**total.meta, **{key: value for key, value in root.meta.items() if key != "val"}}
    root.replace_all_uses_with(total)
    return True


def _piece(term: Any, root: fx.Node) -> Piece | str | None:
    """What a term holds between zeros along one dim; why it is no piece; `None`: nobody put zeros around it."""
    padding = zero_padding(term)
    if padding is None:
        return None
    if len(term.users) != 1:
        return "it is read elsewhere, too"
    if not _alike(term, root):
        return "it is repeated or cast in its sum"
    value, amounts = padding
    filled = [at // 2 for at, amount in enumerate(amounts) if amount]
    if len(set(filled)) != 1:
        return "it has zeros along several dims, or none"
    dim = value.meta["val"].dim() - 1 - filled[0]
    size = value.meta["val"].shape[dim]
    if not isinstance(size, int):
        return "how much of it are zeros is open"
    start = amounts[2 * filled[0]]
    return Piece(term, value, dim, start, start + size)


def _rows(pieces: list[Piece], dim: int) -> list[list[Piece]]:
    """Pieces along a dim in rows of at least two, within which they follow each other and do not overlap."""
    rows: list[list[Piece]] = []
    for piece in sorted((piece for piece in pieces if piece.dim == dim), key=lambda piece: (piece.start, piece.end)):
        row = next((row for row in rows if row[-1].end <= piece.start), None)
        if row is None:
            rows.append([piece])
        else:
            row.append(piece)
    return [row for row in rows if len(row) > 1]


def _concatenated(row: list[Piece], root: fx.Node) -> Callable[[list[Tensor]], Tensor]:
    """The function that lays the values of a row side by side, and fills what they leave."""
    dim, size = row[0].dim, root.meta["val"].shape[row[0].dim]
    in_front = [piece.start - before for piece, before in zip(row, [0, *(piece.end for piece in row)], strict=False)]
    behind = [0] * (len(row) - 1) + [size - row[-1].end]
    trailing = [0] * (2 * (root.meta["val"].dim() - 1 - dim))

    def together(values: list[Tensor]) -> Tensor:
        return torch.cat(
            [
                torch.nn.functional.pad(value, [*trailing, before, after]) if before or after else value
                for value, before, after in zip(values, in_front, behind, strict=True)
            ],
            dim,
        )

    return together
