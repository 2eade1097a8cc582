"""Operations whose rows stand for themselves: of which rows and columns of what they read an element is made.

scores[…, r, c] + mask[…, r, c]        both have rows and columns
query[…, r, :] · keys[…, :, c]         the one has rows, the other columns
softmax(scores, -1)                    goes along the columns, and leaves rows alone
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import arguments, is_tensor
from lrp_compiler.rules import bind, by_element, of_family, traits
from lrp_compiler.torch_private import statically_known_true

aten = torch.ops.aten


@dataclass(frozen=True)
class Grid:
    """Where a value has its rows and its columns: dims counted from the last, which is -1; None: it has none."""

    rows: int | None = None
    columns: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it has both: an element for each pair."""
        return self.rows is not None and self.columns is not None

    def moved(self, where: Callable[[int], int | None]) -> Grid:
        """The same with each dim moved."""
        rows, columns = (None if dim is None else where(dim) for dim in (self.rows, self.columns))
        return Grid(rows, columns)


Operands = list[tuple[fx.Node, Grid]]
"""The tensors that an operation reads, and where these have the rows and columns of its result."""


def operands_of(node: fx.Node, grid: Grid) -> Operands | None:
    """What the operation reads, and where that has the rows and columns that its result has.

    Args:
        node: the operation.
        grid: where its result has them: both, or rows alone.

    Returns:
        None: it is not known to take each row for itself.
    """
    assert grid.rows is not None
    if by_element(node.target) or traits(node.target).casts:
        return _aligned(node, grid)
    if of_family(node.target, "softmax"):
        return _softmax(node, grid)
    if traits(node.target).matrices:
        return _product(node, grid)
    known = BY_ROWS.get(node.target)
    return None if known is None else known(node, grid)


def sized(node: fx.Node) -> int | None:
    """Which of its arguments are the sizes of its result; None: none are."""
    return SIZES.get(node.target)


def _aligned(node: fx.Node, grid: Grid) -> Operands | None:
    """Elementwise, and what is repeated: dims stand under each other from the last; one of size 1 is all the same."""
    found = []
    for operand in node.all_input_nodes:
        if not is_tensor(operand):
            continue
        shape = operand.meta["val"].shape

        def where(dim: int, shape: Sequence[object] = shape) -> int | None:
            return None if -dim > len(shape) or statically_known_true(shape[dim] == 1) else dim

        place = grid.moved(where)
        if not _same_sizes(node, grid, operand, place):
            return None
        found.append((operand, place))
    return found


def _same_sizes(node: fx.Node, grid: Grid, operand: fx.Node, place: Grid) -> bool:
    pairs = ((grid.rows, place.rows), (grid.columns, place.columns))
    here, there = node.meta["val"].shape, operand.meta["val"].shape
    return all(of is None or (own is not None and statically_known_true(here[own] == there[of])) for own, of in pairs)


def _option(node: fx.Node, name: str) -> Any:
    return bind(node.target, node.args, node.kwargs)[name]


def _from_end(dim: int, rank: int) -> int:
    return dim if dim < 0 else dim - rank


def _rank(node: fx.Node) -> int:
    return int(node.meta["val"].dim())


def _softmax(node: fx.Node, grid: Grid) -> Operands | None:
    source = node.args[0]
    along = _from_end(_option(node, "dim"), _rank(node))
    return None if along == grid.rows else [(source, grid)]  # type: ignore[list-item]


def _product(node: fx.Node, grid: Grid) -> Operands | None:
    left, right = arguments(node)[:2]
    if grid != Grid(-2, -1) or _rank(left) < 2 or _rank(right) < 2:
        return None
    return [(left, Grid(rows=-2)), (right, Grid(columns=-1))]


def _unsqueeze(node: fx.Node, grid: Grid) -> Operands | None:
    added = _from_end(_option(node, "dim"), _rank(node))

    def where(dim: int) -> int | None:
        return None if dim == added else dim + 1 if dim < added else dim

    return [(node.args[0], grid.moved(where))]  # type: ignore[list-item]


def _permute(node: fx.Node, grid: Grid) -> Operands | None:
    rank = _rank(node)
    order = [_from_end(dim, rank) for dim in _option(node, "dims")]
    return [(node.args[0], grid.moved(lambda dim: order[dim]))]  # type: ignore[list-item]


def _transpose(node: fx.Node, grid: Grid) -> Operands | None:
    rank = _rank(node)
    one, other = (_from_end(_option(node, name), rank) for name in ("dim0", "dim1"))
    swapped = {one: other, other: one}
    return [(node.args[0], grid.moved(lambda dim: swapped.get(dim, dim)))]  # type: ignore[list-item]


def _slice(node: fx.Node, grid: Grid) -> Operands | None:
    along = _from_end(_option(node, "dim"), _rank(node))
    return None if along in (grid.rows, grid.columns) else [(node.args[0], grid)]  # type: ignore[list-item]


def _embedding(node: fx.Node, grid: Grid) -> Operands | None:
    table, indices = arguments(node)[:2]
    if -1 in (grid.rows, grid.columns):
        return None
    return [(table, Grid()), (indices, grid.moved(lambda dim: dim + 1))]


def _squeeze(node: fx.Node, grid: Grid) -> Operands | None:
    source: Any = node.args[0]
    taken = _from_end(_option(node, "dim"), _rank(source))
    gone = _rank(source) > _rank(node)
    return [(source, grid.moved(lambda dim: dim - 1 if gone and dim <= taken else dim))]


def _select(node: fx.Node, grid: Grid) -> Operands | None:
    source: Any = node.args[0]
    taken = _from_end(_option(node, "dim"), _rank(source))
    return [(source, grid.moved(lambda dim: dim - 1 if dim <= taken else dim))]


def _reshape(node: fx.Node, grid: Grid) -> Operands | None:
    source: Any = node.args[0]
    place = grid.moved(lambda dim: _unsplit(node, source, dim))
    kept = (grid.columns is None or place == grid) and _same_sizes(node, grid, source, place)
    return [(source, place)] if kept and place.rows is not None else None


def _unsplit(node: fx.Node, source: fx.Node, dim: int) -> int | None:
    """The source's dim that a reshape keeps as it is: as many elements lie behind both."""
    sizes = list(source.meta["val"].shape)
    behind = math.prod(node.meta["val"].shape[dim + 1 :]) if dim < -1 else 1
    found, along = 1, -1
    while -along <= len(sizes):
        if statically_known_true(found == behind) and statically_known_true(
            sizes[along] == node.meta["val"].shape[dim]
        ):
            return along
        found, along = found * sizes[along], along - 1
    return None


BY_ROWS: dict[object, Callable[[fx.Node, Grid], Operands | None]] = {
    aten.full.default: lambda node, grid: [],
    aten.expand.default: _aligned,
    aten.unsqueeze.default: _unsqueeze,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.slice.Tensor: _slice,
    aten.squeeze.dim: _squeeze,
    aten.select.int: _select,
    aten.embedding.default: _embedding,
    aten.reshape.default: _reshape,
}
"""Operation → what it reads; elementwise ones, casts, softmax and products of matrices besides."""
SIZES: dict[object, int] = {aten.full.default: 0, aten.expand.default: 1, aten.reshape.default: 1}
"""Operations that are told the sizes of their result: the number of that argument."""
