"""Example inputs, made of what the file says of its inputs: shapes, dtypes, and what they are looked up in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from keyword import iskeyword
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.export import Dim

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import CaptureError, FormatError, InputError

from .read_file import Source
from .rounds import TooLongError
from .tensors import dtype_of

BATCH = 2
"""Size of an open first dimension; torch.export takes 1 for fixed."""
LENGTHS = (8, 32, 64, 224, 256, 1024, 16000)
"""Sizes of the other open dimensions, in the order in which they are tried."""
MAP_RANK = 4
"""Inputs of this rank have a height and a width, which networks halve again and again."""
LAST_RESORT = (*range(1, 64), 128, 384, 512)
"""Files that say "open" and mean the one length that they were made with run on no other."""
SEED = 0


@dataclass(frozen=True)
class Input:
    """An input of the file.

    Args:
        name: in the file.
        argument: of the module's `forward`: the same where Python takes it.
        dtype: of its elements.
        shape: sizes, and names of those that are open.
        unnamed: dims whose open size the file does not name.
    """

    name: str
    argument: str
    dtype: torch.dtype
    shape: tuple[int | str, ...] | None
    unnamed: frozenset[int] = frozenset()

    def said(self, dim: int) -> str | None:
        """What the file calls the size of a dim; None where that is fixed, or has no name."""
        size = (self.shape or ())[dim]
        return size if isinstance(size, str) and dim not in self.unnamed else None


def inputs_of(source: Source) -> list[Input]:
    """The inputs of a model that have no initialiser.

    Raises:
        FormatError: no input at all, two of one name, one that is no tensor, or of a dtype that torch does not have.
    """
    graph = source.model.graph
    held = {tensor.name for tensor in graph.initializer} | {one.values.name for one in graph.sparse_initializer}
    found: list[Input] = []
    taken = {"self"}
    for value in graph.input:
        if value.name in held:
            continue
        what = f"Input {value.name!r} of {source.label}"
        if value.name in {one.name for one in found}:
            raise FormatError(f"{what} is there twice.")
        if not value.type.HasField("tensor_type"):
            raise FormatError(f"{what} is no tensor, and relevance is of tensors alone.")
        dtype = dtype_of(value.type.tensor_type.elem_type, what)
        argument = _argument(value.name, taken)
        taken.add(argument)
        dims = enumerate(value.type.tensor_type.shape.dim)
        unnamed = frozenset(place for place, dim in dims if not dim.dim_param)
        found.append(Input(value.name, argument, dtype, _shape(value), unnamed))
    if not found:
        raise FormatError(f"{source.label} takes no inputs, and relevance is of inputs: there is nothing to explain.")
    return found


def _argument(name: str, taken: Iterable[str]) -> str:
    word = re.sub(r"\W+", "_", name).strip("_") or "input"
    word = word if word.isidentifier() and not iskeyword(word) else f"input_{word}"
    choices = (f"{word}_{number}" if number else word for number in count())
    return next(choice for choice in choices if choice not in taken)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = enumerate(tensor.shape.dim)
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or f"{value.name}_{place}"
        for place, dim in dims
    )


def example_inputs(module: Any, inputs: Sequence[Input], source: Source) -> tuple[Tensor, ...]:
    """Inputs on which the model runs.

    Raises:
        InputError: an input without a shape.
        CaptureError: the model runs on no size that was tried.
    """
    for one in inputs:
        if one.shape is None:
            raise InputError(
                f"The file does not say how many dims input {one.name!r} has: give example inputs, "
                "lrp.compile(model, (x,))."
            )
    values = _Values(source)
    first: Exception | None = None
    for sizes in _sizes(inputs):
        given = tuple(values.of(one, [sizes.get(str(size), size) for size in one.shape or ()]) for one in inputs)
        try:
            with torch.no_grad():
                module(*(tensor.clone() for tensor in given))
            return given
        except (FormatError, TooLongError):  # it is so at any size
            raise
        except Exception as error:
            first = first or error
    said = str(first) if isinstance(first, CaptureError) else f"({reason_of(first)})" if first else ""
    raise CaptureError(f"The model ran on none of the example inputs that were made for it: {said}") from first


def _sizes(inputs: Sequence[Input]) -> Iterator[Mapping[str, int]]:
    """Sizes of the open dimensions, by name: what is tried one after the other."""
    names: dict[str, bool] = {}  # whether it is a batch
    for one in inputs:
        sizes = one.shape or ()
        # A state has layers first: the one size that is open, and that nothing is said of, is the batch.
        state = sum(isinstance(size, str) for size in sizes) == 1 and len(inputs) > 1
        for place, size in enumerate(sizes):
            if isinstance(size, str):
                first = len(sizes) > 1 and (place == 0 or (state and place in one.unnamed))
                names[size] = names.get(size, first) or "batch" in size.lower()
    maps = any(len(one.shape or ()) >= MAP_RANK for one in inputs)
    lengths = sorted(LENGTHS, key=lambda length: maps and length < 64)
    others = [name for name, batch in names.items() if not batch]
    for batch in (BATCH, 1):
        for length in lengths:
            different = {name: length + (0 if maps else place) for place, name in enumerate(others)}
            yield {name: different.get(name, batch) for name in names}
            yield {name: length if name in different else batch for name in names}
        if not names:
            return
        if not others:
            yield dict.fromkeys(names, batch)
    if others:
        for length in LAST_RESORT:
            yield {name: length if name in others else BATCH for name in names}


class _Values:
    """Values that the model takes: numbers that are looked up stay below the size of the table."""

    def __init__(self, source: Source) -> None:
        graph = source.model.graph
        self.random = torch.Generator().manual_seed(SEED)
        self.tables = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) > 1}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def of(self, one: Input, shape: list[Any]) -> Tensor:
        """A tensor of that shape."""
        if one.dtype.is_complex or one.dtype.is_floating_point:
            wide = torch.complex64 if one.dtype.is_complex else torch.float32
            return torch.randn(shape, generator=self.random, dtype=wide).to(one.dtype)
        if one.dtype == torch.bool:
            return torch.ones(shape, dtype=torch.bool)
        rows = self._rows(one.name)
        if one.dtype == torch.uint8 and rows is None:
            return torch.randint(0, 256, shape, generator=self.random, dtype=torch.uint8)
        if rows is None:
            return torch.ones(shape, dtype=one.dtype)
        return torch.randint(0, rows, shape, generator=self.random).to(one.dtype)

    def _rows(self, name: str) -> int | None:
        """How many rows the table has in which an input's values are looked up; None: they are no indices."""
        waiting, seen, found = [name], {name}, []
        while waiting:
            for node in self.readers.get(waiting.pop(), []):
                if node.op_type == "Gather" and node.input[0] in self.tables:
                    found.append(self.tables[node.input[0]])
                elif node.op_type in PASSING and node.output[0] not in seen:
                    seen.add(node.output[0])
                    waiting.append(node.output[0])
        return min(found, default=None)


PASSING = ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Slice", "Transpose", "Flatten", "Expand")
"""Operators that hand on indices as they are."""


def dynamic_shapes(inputs: Sequence[Input]) -> dict[str, Any]:
    """Open sizes by argument, each under its name in the file."""
    dims: dict[str, Any] = {}
    words: set[str] = set()
    found: dict[str, Any] = {}
    for one in inputs:
        open_ones: dict[int, Any] = {}
        for place, size in enumerate(one.shape or ()):
            if isinstance(size, str):
                if size not in dims:
                    word = _argument(size, words)
                    words.add(word)
                    dims[size] = Dim(word)
                open_ones[place] = dims[size]
        found[one.argument] = open_ones
    return found
