"""An explanation as Parquet: a row for each row of its batch, a column for each array, as Arrow's tensors."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.metadata import METADATA_KEY
from lrp_compiler.base.results import Results
from lrp_compiler.base.stored import arrays_of, fields_of, note, read_note

from .columns import Column
from .own_tables import table_in

AXES = b"lrp_compiler.axes"
"""Of the file's metadata: name → the axis of the array that became the rows, as JSON."""
KEY = METADATA_KEY.encode()
WIDER = {"bool": "uint8"}
"""What Arrow's tensors do not hold, and as what they hold it."""


def write(results: Results[Any], path: str | os.PathLike[str]) -> None:
    """Write it, whole or not at all.

    Raises:
        InputError: an array has no row for each row of the batch: relevance of a parameter, say.
    """
    arrays, axes = arrays_of(results), _axes(results)
    rows = len(results.run.classes()[0])
    columns = {}
    for name, array in arrays.items():
        if array.ndim <= axes[name] or array.shape[axes[name]] != rows:
            raise InputError(
                f"{name!r} of shape {list(array.shape)} has no row for each of the {rows} of the batch, as Parquet "
                "needs: save it as .npz."
            )
        held = np.moveaxis(array, axes[name], 0).astype(WIDER.get(array.dtype.name, array.dtype.name), copy=False)
        columns[name] = Column(name, held.dtype.name, held.shape[1:]).array(held)
    about = {KEY: note(results).encode(), AXES: json.dumps(axes).encode()}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(about), temporary, use_dictionary=False)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write` wrote, as `Results` takes it.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no such file.
    """
    with table_in(path, "explanation") as (table, said):
        about, conditions = read_note(said[KEY].decode(), os.fspath(path))
        axes = json.loads(said[AXES])
        kinds = {spec.name: spec.dtype for spec in (*about.takes, *about.returns)}
        arrays = {name: np.moveaxis(_array(table[name], kinds.get(name)), 0, axes[name]) for name in table.column_names}
    return fields_of(arrays, about, conditions)


def _axes(results: Results[Any]) -> dict[str, int]:
    """Where the batch stands in every array: behind the targets or conditions, if there are several."""
    run, about = results.run, results.run.about
    axes = dict.fromkeys([*run.inputs, *run.outputs], 0)
    axes |= dict.fromkeys((entry.tensor.name for entry in about.relevance), int(run.several is not None))
    for spec in about.seed_inputs:
        if spec.name in run.choices:
            more = len(run.choices[spec.name].shape) - len(spec.shape)
            axes[spec.name] = more + (spec.shape.index("batch") if "batch" in spec.shape else 0)
    return axes


def _array(column: Any, dtype: str | None) -> np.ndarray:
    whole = column.combine_chunks()
    tensor = isinstance(whole.type, pa.FixedShapeTensorType)
    array = np.asarray(whole.to_numpy_ndarray() if tensor else whole.to_numpy(zero_copy_only=False))
    return array.astype(bool) if dtype == "bool" else array
