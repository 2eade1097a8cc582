"""What is written of every row: names, dtypes and shapes of the output's columns, and their Arrow arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lrp_compiler.base.errors import FormatError, InputError
from lrp_compiler.base.metadata import FUNCTION, Metadata
from lrp_compiler.base.sizes import size_of
from lrp_compiler.base.specs import ABSORBED, SUM, RelevanceSpec, TensorSpec

PREDICTION, TARGET = "prediction", "target"
TOKENS = "tokens."
"""In front of an input's name."""
OPEN = None
"""A dim whose size differs from row to row."""


@dataclass(frozen=True)
class Column:
    """One column of the output.

    Args:
        name: of the column.
        dtype: as numpy names it.
        shape: of one row's value, () for a number.
        entry: which of the explainer's relevances it is.
        known: whether there is anything to put into it.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] = ()
    entry: RelevanceSpec | None = None
    known: bool = True

    @property
    def whole(self) -> bool:
        """Whether all rows have values of one shape."""
        return OPEN not in self.shape

    @property
    def arrow(self) -> pa.DataType:
        """Its type: a number, a tensor of Arrow, a list, or values and shape as Arrow stores tensors of any shape."""
        number = pa.from_numpy_dtype(np.dtype(self.dtype))
        if self.shape == ():
            return number
        if self.whole:
            return pa.fixed_shape_tensor(number, [dim for dim in self.shape if dim is not None])
        if len(self.shape) == 1:
            return pa.list_(number)
        return pa.struct({"data": pa.list_(number), "shape": pa.list_(pa.int32(), len(self.shape))})

    def empty(self, rows: int) -> np.ndarray:
        """Room for so many rows: −1 or NaN where nothing is put."""
        dtype = np.dtype(self.dtype)
        if self.whole:
            shape: tuple[int, ...] = (rows, *(dim for dim in self.shape if dim is not None))
            return np.full(shape, -1 if dtype.kind == "i" else np.nan, dtype)
        return np.full(rows, None, object)

    def array(self, values: np.ndarray) -> pa.Array:
        """Rows as Arrow: `[rows, *shape]`, or of open dims an array of arrays."""
        kind = self.arrow
        if not self.known:
            return pa.nulls(len(values), kind)
        if self.shape == ():
            return pa.array(values, kind)
        if self.whole:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type))
        pieces = [np.asarray(value, self.dtype) for value in values]
        ends = np.cumsum([0, *(piece.size for piece in pieces)], dtype=np.int32)
        flat = np.concatenate([piece.reshape(-1) for piece in pieces]) if pieces else np.empty(0, self.dtype)
        lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))
        if len(self.shape) == 1:
            return lists
        shapes = np.array([piece.shape for piece in pieces], np.int32).reshape(-1)
        dims = pa.FixedSizeListArray.from_arrays(pa.array(shapes), type=kind.field("shape").type)
        return pa.StructArray.from_arrays([lists, dims], fields=[kind.field("data"), kind.field("shape")])


def layout(about: Metadata, cut: Mapping[str, Collection[int]], ids: Collection[str] = ()) -> list[Column]:
    """The columns of an explainer's output.

    `prediction` and `target` are classes, −1 where there is none; `logit` (or what the model returns of a class) is
    that of the target; of a pair both the target and its two classes stand side by side, of several targets all of
    them. `sum.<input>` is Σ relevance.

    Args:
        about: what its file says.
        cut: relevance's name → dims of a row that are cut where its text ends.
        ids: names of inputs that are a text's tokens: which they were is written as well, as `tokens.<input>`.

    Raises:
        InputError: something that it returns is not made row by row.
    """
    classes = has_classes(about)
    picks = about.picks if isinstance(about.picks, list) else [about.picks]
    several = () if about.several is None else (about.several,)
    pair = (2,) if any(isinstance(pick, Mapping) for pick in picks) else ()
    target = classes and about.seed != "tensor" and about.picks is not None
    found = [Column(PREDICTION, "int64", known=classes), Column(TARGET, "int64", (*several, *pair), known=target)]
    found.append(Column(about.score.replace("-", "_"), "float64", several, known=target))
    entries = [
        Column(entry.called, entry.tensor.dtype, row_shape(about, entry, cut), entry) for entry in about.relevance
    ]
    sums = [column for column in entries if column.entry is not None and column.entry.form == SUM]
    if not sums:
        own = [entry for entry in about.relevance if entry.form == "total" and not entry.part]
        sums = [Column(f"sum.{entry.input}", "float64", several, entry) for entry in own if not about.reduce]
    absorbed = [column for column in entries if column.name == ABSORBED] or [Column(ABSORBED, "float64", known=False)]
    lengths = {spec.name: spec.shape[1] for spec in about.inputs if spec.name in ids}
    shapes = {name: (size if isinstance(size, int) and not cut else OPEN,) for name, size in lengths.items()}
    tokens = [Column(f"{TOKENS}{name}", "int32", shape) for name, shape in shapes.items()]
    first = [*found, *sums, *absorbed, *tokens]
    return [*first, *(column for column in entries if column not in first)]


def has_classes(about: Metadata) -> bool:
    """Whether what is explained is a class."""
    return not (about.target == FUNCTION or about.explains_answer or about.explained >= len(about.outputs))


def row_shape(about: Metadata, entry: RelevanceSpec, cut: Mapping[str, Collection[int]]) -> tuple[int | None, ...]:
    """Of a relevance, the shape of one row: without the batch, targets in front."""
    shape = list(entry.tensor.shape)
    axis = batch_axis(about, entry)
    if len(shape) <= axis or (is_open(about) and shape[axis] != "batch"):
        raise InputError(f"{entry.tensor} is not made row by row: compile the explainer for the relevance of inputs.")
    del shape[axis]
    cuts = cut.get(entry.called, ())
    return tuple(dim if isinstance(dim, int) and place not in cuts else OPEN for place, dim in enumerate(shape))


def batch_axis(about: Metadata, entry: RelevanceSpec) -> int:
    """Where the batch stands in a relevance: behind the targets, if it has several."""
    return entry.tensor.shape.index("batch") if "batch" in entry.tensor.shape else int(about.several is not None)


def is_open(about: Metadata) -> bool:
    """Whether the explainer takes any number of rows."""
    return "batch" in about.inputs[0].shape


def bytes_of(specs: Sequence[TensorSpec], about: Metadata) -> int:
    """About how many bytes one row of these tensors has; open sizes are taken to be the example's."""
    sizes = {**about.sizes, "batch": 1}
    return sum(
        int(np.dtype(spec.dtype).itemsize * np.prod([_size(dim, sizes) for dim in spec.shape])) for spec in specs
    )


def _size(dim: int | str, sizes: Mapping[str, Any]) -> int:
    try:
        return dim if isinstance(dim, int) else size_of(dim, sizes)
    except FormatError:
        return 1
