"""Attention in blocks of queries: a loop of which no step holds more than block × sequence scores.

    softmax(q kᵀ + mask) v        →        scan over blocks of rows: softmax(q_i kᵀ + mask_i) v

Every row of the scores stands for itself, so rows can be taken in any portions. What becomes the loop's body is found
from the product with v backwards: all operations whose values have both rows (queries) and columns (keys), be it
scores, a mask, or a bias of positions (`rows.py`). Where they end, what has rows is read block by block (q, positions
of rows), and what has none stays the same in all steps (kᵀ, v, padding). The loop has no state: relevance goes through
its steps in any order, and calculates the values of a step again from what it reads (`relevance/loops.py`).

Sources: Rabe and Staats, "Self-attention does not need O(n²) memory", 2021, arXiv 2112.05682; for the way back Dao et
al., "FlashAttention", 2022, arXiv 2205.14135.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import (
    Result,
    Scan,
    Sizes,
    add_placeholder,
    call,
    is_asked_for,
    is_tensor,
    trace_into,
)
from lrp_compiler.rules import of_family, traits
from lrp_compiler.torch_private import bound, fake_mode_of, hint, largest, take_name

from .rows import Grid, Operands, operands_of, sized

aten = torch.ops.aten
BLOCK = 128
"""How many queries a block has where nobody says."""
LARGE = 2**28
"""Bytes: an attention whose scores may take more, for the example's batch, is put in blocks where nobody says."""


def block_attention(module: fx.GraphModule, block: int | None = None, apart: Collection[str] = ()) -> Result:
    """Put attention in blocks, in place.

    Args:
        module: the forward graph.
        block: how many queries each block has; 0: nothing is done; None: `BLOCK`, where the scores are `LARGE`.
        apart: patterns of values that have to stay in the graph, as `called` takes them.
    """
    declined = []
    changed = False
    for node in list(module.graph.nodes) if block != 0 else ():
        if not traits(node.target).matrices:
            continue
        found = _Region.of(node)
        if found is None:
            continue
        reason = found.reason(block, apart)
        reason = reason or _Blocks(found, block or BLOCK).put()
        if reason:
            declined.append((node.name, reason))
        changed |= not reason
    return Result(module, changed, declined)


@dataclass(frozen=True)
class _Region:
    """What an attention's product with v is made of.

    Args:
        end: the product.
        inside: the operations that have rows and columns → where; as they stand in the graph.
        reads: what each of them reads, the product too.
    """

    end: fx.Node
    inside: dict[fx.Node, Grid]
    reads: dict[fx.Node, Operands]

    @classmethod
    def of(cls, end: fx.Node) -> _Region | None:
        """None: it is no product of a softmax of scores with values."""
        weights, values = (one if is_tensor(one) else None for one in end.args[:2])
        if weights is None or values is None or min(one.meta["val"].dim() for one in (weights, values)) < 2:
            return None
        inside: dict[fx.Node, Grid] = {}
        reads: dict[fx.Node, Operands] = {end: [(weights, Grid(-2, -1)), (values, Grid())]}
        stack = [end]
        while stack:
            for operand, grid in reads[stack.pop()]:
                if not grid.whole or operand.op != "call_function" or operand in inside:
                    continue
                read = operands_of(operand, grid)
                if read is not None:
                    inside[operand], reads[operand] = grid, read
                    stack.append(operand)
        order = [node for node in end.graph.nodes if node in inside]
        region = cls(end, {node: inside[node] for node in order}, reads)
        targets = {node.target for node in region.core}
        normalised = any(of_family(target, "softmax") for target in targets)
        return region if normalised and any(traits(target).matrices for target in targets) else None

    @property
    def core(self) -> list[fx.Node]:
        """What is made of scores, these themselves included: no mask is."""
        found: dict[fx.Node, None] = {}
        for node in self.inside:
            if traits(node.target).matrices or any(operand in found for operand, _ in self.reads[node]):
                found[node] = None
        return list(found)

    def reason(self, block: int | None, apart: Collection[str]) -> str:
        """Why it is let be; "": it is put in blocks."""
        core = self.core
        named = [node.name for node in core if is_asked_for(node, apart)]
        if named:
            return f"{named[0]} is asked for"
        elsewhere = [node.name for node in core if any(user not in self.reads for user in node.users)]
        if elsewhere:
            return f"{elsewhere[0]} is read elsewhere, too"
        scores = next(node for node in core if traits(node.target).matrices)
        value, grid = scores.meta["val"], self.inside[scores]
        if block is None:
            sizes = [
                largest(size) if dim - value.dim() in (grid.rows, grid.columns) else hint(size)
                for dim, size in enumerate(value.shape)
            ]
            taken = math.prod(sizes) * value.element_size()
            if taken <= LARGE:
                return f"its scores take {taken:,} bytes"
        rows = value.shape[grid.rows]
        most = bound(rows)
        return f"it has {most} queries" if most is not None and most <= (block or BLOCK) else ""


class _Blocks:
    """The loop that takes a region's place."""

    def __init__(self, region: _Region, block: int) -> None:
        self.region = region
        self.block = block
        self.body = fx.Graph()
        self.copies: dict[tuple[fx.Node, int | None], fx.Node] = {}
        self.read: dict[tuple[fx.Node, int | None], None] = {}

    def put(self) -> str:
        """Put it there. Why it cannot be done, or ""."""
        region = self.region
        for node in (*region.inside, region.end):
            places = dict(region.reads[node])
            if any(places[operand] != grid for operand, grid in region.reads[node]):
                return f"{node.name} reads rows as columns, too"
            for operand, grid in places.items():
                if operand not in region.inside:
                    self.read.setdefault((operand, grid.rows))
                elif region.inside[operand] != grid:
                    return f"rows of {operand.name} are read as columns, too"
        sizes = self._placeholders()
        for node in (*region.inside, region.end):
            reason = self._copy(node, sizes)
            if reason:
                return reason
        self.body.output((self._copy_of(region.end),))
        self._splice()
        return ""

    @property
    def operands(self) -> list[tuple[fx.Node, int | None]]:
        """What the loop reads, and the dim of rows: block by block, then what stays the same."""
        return sorted(self.read, key=lambda one: one[1] is None)

    def _placeholders(self) -> Sizes:
        sizes = Sizes(self.body)
        for operand, rows in self.operands:
            place = self.copies[operand, rows] = add_placeholder(self.body, operand.name)
            value = operand.meta["val"]
            if rows is not None:
                shape = list(value.shape)
                shape[rows] = self.block
                with fake_mode_of(value):
                    value = value.new_empty(shape)
            place.meta.update({"val": value, "input": place.name})
            if rows is None:
                place.meta["constant"] = True
            sizes.add_dims(place)
        return sizes

    def _copy_of(self, node: fx.Node) -> fx.Node:
        return self.copies[node, self.region.inside.get(node, Grid(-2)).rows]

    def _copy(self, node: fx.Node, sizes: Sizes) -> str:
        unknown = []
        args: list[Any] = list(node.args)
        number = sized(node)
        if number is not None:
            shape = list(args[number])
            shape[self.region.inside[node].rows] = self.block  # type: ignore[index]
            args[number] = shape

        places = dict(self.region.reads[node])

        def inner(argument: fx.Node) -> Any:
            if argument in places:
                return self.copies[argument, places[argument].rows]
            value: Any = argument.meta.get("val")
            if value in sizes:
                return sizes.read(value)
            unknown.append(argument.name)
            return argument

        given: Any
        options: Any
        given, options = fx.map_arg((args, node.kwargs), inner)
        if unknown:
            return f"{unknown[0]} is a size that no tensor of the loop has"
        rows = self.region.inside.get(node, Grid(-2)).rows
        with fake_mode_of(node.meta["val"]):  # what makes a tensor of sizes reads none that is symbolic
            copy = self.copies[node, rows] = call(self.body, node.target, *given, **options)
        copy.meta = {**node.meta, "val": copy.meta["val"]}
        return ""

    def _splice(self) -> None:
        end, block = self.region.end, self.block
        graph = end.graph
        body = fx.GraphModule(graph.owning_module, self.body)  # type: ignore[arg-type]
        sliced = [(operand, rows) for operand, rows in self.operands if rows is not None]
        same = [operand for operand, rows in self.operands if rows is None]
        slices = [trace_into(end, in_blocks, [operand, rows, block], like=end) for operand, rows in sliced]
        with graph.inserting_before(end):
            loop = call(graph, Scan(body, 0, len(slices)), *slices, *same, like=end)
            stacked = call(graph, operator.getitem, loop, 0, like=end)
        made = trace_into(end, out_of_blocks, [stacked, *sliced[0]], like=end)
        made.meta = end.meta
        end.replace_all_uses_with(made)
        graph.erase_node(end)
        take_name(made, end)
        for node in reversed(list(self.region.inside)):  # a mask may be another attention's, too
            if not node.users:
                graph.erase_node(node)


def in_blocks(tensor: Tensor, dim: int, block: int) -> Tensor:
    """`[…, rows, …]` → `[blocks, …, block, …]`: the last block is filled up with the last row.

    A row that is there again is made of numbers that occur anyhow, and what becomes of it is dropped; rows of zeros
    might be masked whole.

    Args:
        tensor: what has rows.
        dim: theirs, counted from the last.
        block: how many make a block.
    """
    dim += tensor.dim()
    count = (tensor.shape[dim] + block - 1) // block
    shape: Sequence[int | torch.SymInt] = [block if at == dim else size for at, size in enumerate(tensor.shape)]
    filled = torch.cat([tensor, aten.slice.Tensor(tensor, dim, -1).expand(shape)], dim)
    filled = aten.slice.Tensor(filled, dim, 0, count * block)
    split: Tensor = filled.reshape([*tensor.shape[:dim], count, block, *tensor.shape[dim + 1 :]])
    return split.permute([dim, *(at for at in range(split.dim()) if at != dim)])


def out_of_blocks(blocks: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """The inverse where rows are the last dim but one: `[blocks, …, block, features]` → `[…, rows, features]`.

    Args:
        blocks: what the steps made.
        tensor: what was cut into blocks.
        dim: its rows.
    """
    count, *batch, block, features = blocks.shape
    rank = len(batch)
    together = blocks.permute([*range(1, rank + 1), 0, rank + 1, rank + 2]).reshape([*batch, count * block, features])
    result: Tensor = aten.slice.Tensor(together, rank, 0, tensor.shape[dim])
    return result
