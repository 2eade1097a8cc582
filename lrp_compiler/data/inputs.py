"""Columns of a window as an explainer's inputs: numbers, pictures, texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lrp_compiler.base.arrays import to_array
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.references import PREFIX, check_said, references_by_input
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import check, shortened
from lrp_compiler.website.page_spec import preprocessing

from .photos import IMAGE, read_picture, scaled
from .preparation import Preparation
from .text import MASK, TEXT, Tokenizer, length_bounds, text_inputs
from .window import Window

IMAGE_DIMS = 4
"""Of a batch of pictures."""
Values = np.ndarray | list[Any]
"""Of one input: `[rows, …]`, or of each row an array (None where there is none)."""


class Inputs:
    """Makes inputs of columns.

    Args:
        about: what the explainer's file says.
        preparation: how.
        apart: names of inputs that are given otherwise.

    Raises:
        InputError: the preparation does not fit the explainer.
    """

    def __init__(self, about: Metadata, preparation: Preparation, apart: Collection[str] = ()) -> None:
        self.how = preparation
        self.specs = [spec for spec in (*about.inputs, *about.choices) if spec.name not in apart]
        self.references = references_by_input(about, preparation.reference)
        for spec in about.inputs:
            said: Any = self.references.get(spec.name)
            shape = np.shape(said)
            if len(shape) == len(spec.shape) and shape and shape[0] != 1:
                raise InputError(
                    f"The reference of input {spec.name.removeprefix(PREFIX)!r} has {shape[0]} rows: give one for all "
                    f"rows of the data, or a column {spec.name!r}, which says it row by row."
                )
        self.texts = text_inputs([spec for spec in about.inputs if spec.name not in self.references])
        unknown = sorted(set(preparation.columns) - {spec.name for spec in self.specs} - {TEXT})
        if unknown:
            raise InputError(f"The explainer has no input {unknown[0]!r} for a column: it takes {self._named()}.")
        if preparation.target is not None and all(spec.name != "target" for spec in about.choices):
            mode = about.target
            raise InputError(f"A target was given, but this explainer was compiled for {mode!r}, not 'index'.")
        self.tokenizer: Tokenizer | None = None
        if preparation.tokenizer is not None:
            if not self.texts:
                raise InputError(f"A tokenizer was given, but the explainer takes no text: it takes {self._named()}.")
            most = length_bounds(about, next(spec for spec in about.inputs if spec.name in self.texts))[1]
            self.tokenizer = Tokenizer(preparation.tokenizer, preparation.max_length, most)
        self._pictures: dict[str, dict[str, Any]] = {}
        self._floats = self._read = False

    def columns(self, names: Sequence[str]) -> dict[str, str]:
        """Input → column, of those that come from columns; `TEXT` → the column of texts.

        Args:
            names: of the columns that there are.

        Raises:
            InputError: an input has none.
        """
        found: dict[str, str] = {}
        given = dict(self.how.columns)
        if self.tokenizer is not None:
            found[TEXT] = given.get(TEXT, TEXT)
        for spec in self.specs:
            if (self.tokenizer is not None and spec.name in self.texts) or self._constant(spec.name):
                continue
            column = given.get(spec.name, spec.name)
            if spec.name in self.references and column not in names and spec.name not in given:
                check_said(spec, self.references[spec.name])
                continue
            if column not in names and spec.name not in given:
                rest = [name for name in names if name != "id"]
                if self.texts.get(spec.name) == MASK:
                    continue  # every place counts
                alone = len(rest) == 1 and len(self.specs) - len(self.references) == 1
                column = IMAGE if IMAGE in names and len(spec.shape) == 4 else rest[0] if alone else column
            found[spec.name] = column
        for name, column in found.items():
            if column not in names:
                what = "The text" if name == TEXT else f"Input {name!r}"
                raise InputError(
                    f"{what} has no column {column!r} (there are {', '.join(names)}): say which by "
                    f"columns={{{name!r}: …}}, on the command line by --column {name}=…."
                )
        return found

    def of(self, window: Window, errors: dict[int, str]) -> dict[str, Values]:
        """The inputs of a window's rows by name; what is wrong with a row is written down among the errors.

        Raises:
            InputError: it is wrong with all rows: their dtype or shape is that of the column.
        """
        columns = self.columns(list(window.columns))
        found: dict[str, Values] = {}
        if self.tokenizer is not None:
            texts = window.columns[columns[TEXT]]
            listed = texts.to_pylist() if isinstance(texts, pa.Array) else list(texts)
            wanted = {spec.name: (self.texts[spec.name], spec.dtype) for spec in self.specs if spec.name in self.texts}
            found |= self.tokenizer([_plain(text) for text in listed], wanted, errors)
        for spec in self.specs:
            if self._constant(spec.name):
                found[spec.name] = np.full(len(window), self.how.target, np.int64)
            elif spec.name in columns:
                found[spec.name] = self._input(spec, window.columns[columns[spec.name]], errors)
        for spec in self.specs:
            if spec.name not in found and self.texts.get(spec.name) == MASK:
                beside = found[next(name for name in self.texts if name in found)]
                if isinstance(beside, np.ndarray):
                    found[spec.name] = np.ones(beside.shape, spec.dtype)
                else:
                    found[spec.name] = [None if one is None else np.ones(len(one), spec.dtype) for one in beside]
        self._check_texts(found, errors)
        size = self.how.size is not None or self.how.crop != 1 or self.how.resize != "crop"
        if size and not self._read and self._floats:
            raise InputError("size, crop and resize are of pictures in files, and there are none: leave them out.")
        if (self.how.mean is not None or self.how.std is not None) and self._floats and not self._pictures:
            raise InputError(
                "mean and std are of pictures in files and of colours in uint8, and there are none: leave them out, "
                "and give floating numbers as the network takes them."
            )
        return found

    def _check_texts(self, found: Mapping[str, Values], errors: dict[int, str]) -> None:
        """A row's inputs that are one text have as many numbers each."""
        alike = {*self.texts, *(f"{PREFIX}{name}" for name in self.texts)}
        texts = {name: values for name, values in found.items() if name in alike}
        for place, row in enumerate(zip(*texts.values(), strict=True) if len(texts) > 1 else ()):
            sizes = [len(one) for one in row if one is not None]
            if len({*sizes}) > 1:
                several = ", ".join(f"{name} {size}" for name, size in zip(texts, sizes, strict=False))
                errors.setdefault(place, f"The inputs of one text have different lengths: {several}.")

    def _constant(self, name: str) -> bool:
        return name == "target" and self.how.target is not None

    def _named(self) -> str:
        return ", ".join(spec.name for spec in self.specs)

    def _input(self, spec: TensorSpec, values: Any, errors: dict[int, str]) -> Values:
        if len(spec.shape) == IMAGE_DIMS and _are_files(values):
            return self._read_pictures(spec, values, errors)
        array = uniform(values)
        if array is None:
            return [self._row(spec, value, place, errors) for place, value in enumerate(_rows(values))]
        array = self._numbers(spec, array)
        check([_of_rows(spec)], {spec.name: array})
        return array

    def _row(self, spec: TensorSpec, value: Any, place: int, errors: dict[int, str]) -> np.ndarray | None:
        """One row's value in the input's shape; a flat list of as many numbers is taken in that shape."""
        one = TensorSpec(spec.name, spec.shape[1:], spec.dtype)
        try:
            if value is None:
                raise InputError(f"Input {spec.name!r} is missing.")
            if isinstance(value, str):
                hint = " (a text needs the model's tokenizer)" if spec.name in self.texts else ""
                raise InputError(f"Input {spec.name!r} wants numbers, not the text {shortened(value)}{hint}.")
            array = _in_shape(self._numbers(one, to_array(one, value)), one.shape)
            check([one], {spec.name: array})
            return array.astype(spec.dtype, copy=False)
        except InputError as error:
            errors.setdefault(place, str(error))
            return None

    def _numbers(self, spec: TensorSpec, array: np.ndarray) -> np.ndarray:
        """Floating numbers in the input's width, and of whole-number colours what the network takes, if mean or std are
        given."""
        given = self.how.mean is not None or self.how.std is not None
        if array.dtype.kind == "f" == spec.dtype[0]:
            self._floats = True
            with np.errstate(over="ignore"):  # what becomes infinite is refused by itself
                return array.astype(spec.dtype, copy=False)
        if not given or array.dtype != np.uint8 or spec.dtype != "float32" or array.ndim < 3:
            return array
        how = self._scale(spec.name, array.shape[-3])
        return scaled(array.astype(np.float32) / np.float32(255), how)

    def _scale(self, name: str, channels: int) -> dict[str, Any]:
        if name not in self._pictures:
            mean, std = (1.0 * at if one is None else one for at, one in enumerate((self.how.mean, self.how.std)))
            self._pictures[name] = preprocessing(channels, mean, std, self.how.resize, self.how.crop)
        return self._pictures[name]

    def _read_pictures(self, spec: TensorSpec, values: Any, errors: dict[int, str]) -> Values:
        channels, *dims = spec.shape[1:] if len(spec.shape) == 4 else (0,)
        sizes = [dim if isinstance(dim, int) else self.how.size for dim in dims]
        if channels not in (1, 3) or spec.dtype != "float32":
            raise InputError(f"Pictures are float32[batch, 1 or 3, height, width], but the explainer takes {spec}.")
        if None in sizes:
            raise InputError(f"{spec} leaves the size of the picture open: give size=…, or --size.")
        height, width = (int(size) for size in sizes if size is not None)
        self._read = True
        how = self._scale(spec.name, int(channels))
        read = np.zeros((len(values), channels, height, width), np.float32)
        for place, given in enumerate(values.to_pylist() if isinstance(values, pa.Array) else values):
            if place in errors:
                continue
            try:
                if given is None:
                    raise InputError(f"Input {spec.name!r} is missing.")
                read[place] = read_picture(_plain(given), int(channels), height, width, how)
            except InputError as error:
                errors[place] = str(error)
        return read


def uniform(values: Any) -> np.ndarray | None:
    """A column as one array `[rows, …]`, without a copy where that can be; None: its rows are to be looked at one by
    one."""
    if isinstance(values, np.ndarray):
        return None if values.dtype.kind == "O" else values
    if not isinstance(values, pa.Array) or values.null_count:
        return None
    if isinstance(values, pa.FixedShapeTensorArray):
        array: np.ndarray = values.to_numpy_ndarray()
        return array
    shape = [len(values)]
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
        if values.null_count:
            return None
    numbers = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    return values.to_numpy(zero_copy_only=False).reshape(shape) if numbers else None


def _rows(values: Any) -> Sequence[Any]:
    """A column row by row: lists of numbers as arrays, the others as Python has them."""
    if not isinstance(values, pa.Array):
        return values if isinstance(values, list) else list(values)
    kind = values.type
    flat = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    )
    if not flat or values.flatten().null_count:
        return list(values.to_pylist())
    numbers, ends = values.values.to_numpy(zero_copy_only=False), values.offsets.to_numpy()
    known = values.is_valid().to_numpy(zero_copy_only=False)
    return [numbers[ends[at] : ends[at + 1]] if known[at] else None for at in range(len(values))]


def _are_files(values: Any) -> bool:
    """Whether it is pictures in files: paths, content, or both."""
    if isinstance(values, pa.Array):
        kind = values.type
        names = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_struct(kind)
        return bool(names or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values.dtype.kind in "US"
    return any(isinstance(one, str | bytes | dict) for one in values)


def _plain(value: Any) -> Any:
    """A text or bytes of numpy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _of_rows(spec: TensorSpec) -> TensorSpec:
    """The input, for any number of rows."""
    return TensorSpec(spec.name, ("batch", *spec.shape[1:]), spec.dtype)


def _in_shape(array: np.ndarray, shape: Collection[int | str]) -> np.ndarray:
    fixed = [dim for dim in shape if isinstance(dim, int)]
    flat = array.ndim == 1 and len(fixed) == len(shape) > 1 and array.size == int(np.prod(fixed))
    return array.reshape(fixed) if flat else array
