"""References of channels as Parquet: a row for each channel and each of its samples, the first ones first."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrp_compiler.base.files import atomic_path

from .own_tables import table_in

KEY = b"lrp_compiler.references"
"""Of the file's metadata: path of the layer, by what, how many samples were seen and are kept, as JSON."""


def write(found: Any, path: str | os.PathLike[str], ids: np.ndarray | None = None) -> None:
    """Write it, whole or not at all: columns channel, rank, sample, score, place and, if there are such, id.

    Args:
        found: what `concepts.references` found.
        path: of the file.
        ids: what the samples are called, `[channels, k]`.
    """
    count, k = found.samples.shape
    columns = {
        "channel": np.repeat(np.arange(count), k),
        "rank": np.tile(np.arange(k), count),
        "sample": found.samples.reshape(-1),
        "score": found.scores.reshape(-1),
        "place": pa.array(list(found.places.reshape(count * k, -1)), pa.list_(pa.float64())),
    }
    if ids is not None:
        columns["id"] = pa.array(np.asarray(ids).reshape(-1).tolist())
    said = {"path": found.path, "by": found.by, "seen": found.seen, "k": k}
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(said).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write` wrote, by the names of `References`.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no such file.
    """
    with table_in(path, "references") as (table, metadata):
        said = json.loads(metadata[KEY])
        shape = (-1, said["k"])
        places = np.array(table["place"].to_pylist(), np.float64)
        return {
            "path": said["path"],
            "by": said["by"],
            "seen": said["seen"],
            "samples": table["sample"].to_numpy().reshape(shape),
            "scores": table["score"].to_numpy().reshape(shape),
            "places": places.reshape(len(places) // said["k"], said["k"], -1 if places.size else 0),
        }
