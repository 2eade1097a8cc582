"""Explain a data set: source, engine and sink, in this process, several, or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.progress import row_bar
from lrp_compiler.base.seal import file_digest
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.base.version import __version__

from .columns import bytes_of
from .engine import BATCH, Explain
from .engines import ENGINES, Make, range_of
from .preparation import Numbers, Preparation
from .shards import Shards
from .sink import GENERATOR, Counts, Sink, check_same, opened, write_manifest
from .sources import Source, fingerprint, open_source
from .where import Where

MEMORY = 1 << 26
"""Bytes of inputs and relevance that a window has, and of relevance that a shard has, about."""
MOST_IN_WINDOW, MOST_IN_SHARD = 4096, 16384


@dataclass(frozen=True)
class Done:
    """What was done.

    Args:
        folder: of the output.
        rows: rows of the data that were asked for.
        explained: rows that were explained, in earlier runs as well.
        bad: rows that could not be.
        shards: files of relevance.
        seconds: of this run.
        resumed: rows that were done before it.
    """

    folder: Path
    rows: int
    explained: int
    bad: int
    shards: int
    seconds: float
    resumed: int


@boundary("explain the data")
def explain(
    explainer: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    id: str | None = None,
    target: int | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    resize: str = "crop",
    crop: float = 1.0,
    size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    max_length: int | None = None,
    reference: Any = None,
    where: str | None = None,
    limit: int | None = None,
    bad: str = "skip",
    batch_size: int = BATCH,
    workers: int | tuple[int, int] = 1,
    engine: str = "embedded",
    address: str | None = None,
    shard_rows: int | None = None,
    check: bool = True,
    progress: bool = False,
) -> Done:
    """Explain every row of a data set; what a killed run left is gone on with.

    Written are `output/manifest.json`, `output/relevance.parquet/` and, of rows that could not be explained,
    `output/errors.parquet/` (row, id, error). The columns of relevance: `id`, `prediction`, `target`, `logit`,
    `sum.<input>` (Σ relevance), `absorbed` (null, unless the explainer returns it), of texts `tokens.<input>`, which
    says which they are, `relevance.<input>` and whatever else the explainer returns, as Arrow's tensors of fixed shape;
    of texts and other open sizes as lists.

    Args:
        explainer: its ONNX file.
        data: a `.npy`, `.parquet` or `.jsonl` file, or a folder of `.parquet`, of `.npy` (one for each input) or of
            pictures. Floating numbers of any width are taken in the input's.
        output: a folder, new or of the same job.
        id: the column that tells rows apart; by default `id`, of pictures their paths, else the row's number.
        columns, target, mean, std, resize, crop, size, tokenizer, max_length, reference: see `Preparation`.
        where: a condition on columns, such as `"label == 3 and split != 'test'"`; others are left out.
        limit: only so many of the first rows.
        bad: what becomes of a row that cannot be explained: "skip" writes it down among the errors, "raise" ends the
            job.
        batch_size: how many rows run at once, at most; those of a text come by length.
        workers: processes, each with a session of its own and its share of the cores. (A script that asks for several
            stands below `if __name__ == "__main__":`.) With Ray, actors; least and most of them if there are two
            numbers.
        engine: "embedded", or "ray": actors of Ray Data make the shards, on several machines if there are. What they
            read and write must lie on storage that all nodes share, under the same path, the output, too; and the
            package is installed on each. Whoever or whatever node dies, its shards are made anew, and each row stands
            once.
        address: of the Ray cluster ("auto": the one that runs on this machine); by default that of the environment's
            RAY_ADDRESS, else one is started on this machine for the job.
        shard_rows: rows of the data in a file; by default about 64 MB of relevance.
        check: whether the explainer is compared with the hash in its seal first.
        progress: whether a bar on stderr shows rows, rate and time left; needs rich.

    Returns:
        How many rows were explained, and how many could not be.

    Raises:
        InputError: an option does not fit the explainer or the data; the folder is of another job; with bad="raise", a
            row cannot be explained.
        FormatError: the file is no explainer, or damaged.
        InstallError: the engine is not installed.
        LrpError: no row at all could be explained, a worker ended again and again on the same rows, or there is no
            such cluster.
        OSError: a file cannot be read or written; what was written stays, and the job can be gone on with.
    """
    start = perf_counter()
    preparation = Preparation(
        columns or {}, target, mean, std, resize, crop, size, tokenizer, max_length, reference=reference
    )
    for name, value in {"limit": limit, "shard_rows": shard_rows, "batch_size": batch_size}.items():
        optional = value is None and name != "batch_size"
        check_option(name, value, optional or (whole_number(value) or 0) > 0, "a whole number from 1 up")
    check_option("bad", bad, bad in ("skip", "raise"), '"skip" or "raise"')
    check_option(
        "engine", engine, isinstance(engine, str) and engine in ENGINES, " or ".join(f'"{name}"' for name in ENGINES)
    )
    check_option("address", address, isinstance(address, str | None), 'a text, such as "auto" or "10.0.0.1:6379"')
    asked = range_of(workers)
    make = ENGINES[engine](asked, address)
    check_option("id", id, isinstance(id, str | None), "a column's name")
    check_option("where", where, isinstance(where, str | None), "a condition, as text")
    folder = Path(os.path.abspath(output))
    if folder == Path(os.path.abspath(data)) or Path(os.path.abspath(data)) in folder.parents:
        raise InputError(f"The output {output} lies in the data {data}: choose a folder outside.")
    threads = max(1, (os.cpu_count() or 1) // asked[1])
    explains = Explain(explainer, preparation, batch_size=batch_size, threads=threads, check=check)
    condition = None if where is None else Where(where)
    with opened(folder) as before:
        source = open_source(data, id, folder)
        wanted = _wanted(explains, source, condition)
        file = explains.about
        window = _rows(bytes_of([*file.takes, *file.returns], file), batch_size, MOST_IN_WINDOW)
        relevance = bytes_of([entry.tensor for entry in file.relevance], file)
        size_of_shard = shard_rows or (before or {}).get("shard_rows") or _rows(relevance, batch_size, MOST_IN_SHARD)
        manifest: dict[str, Any] = {
            "generator": GENERATOR,
            "explainer": file_digest(explainer),
            "data": fingerprint(source),
            "rows": min(source.rows, limit or source.rows),
            "where": where,
            "id": id,
            "preparation": preparation.to_dict(),
            "shard_rows": size_of_shard,
        }
        about = {"versions": {"lrp_compiler": __version__}, "composite": file.name}
        if before is None:
            write_manifest(folder, {**manifest, **about})
        else:
            check_same(folder, before, manifest)
        sink = Sink(folder, explains.columns, source.id_type, {**manifest, **about})
        shards = Shards(explains, source, sink, condition, wanted, window, bad == "raise")
        done, resumed = _run(shards, make, progress)
        write_manifest(folder, {**manifest, **about, "done": {"explained": done.explained, "bad": done.bad}})
    if done.bad and not done.explained:
        none = f"None of the {done.bad:,} rows could" if done.bad > 1 else "The only row could not"
        raise LrpError(f"{none} be explained: {shards.first_error()}")
    return Done(Path(output), done.rows, done.explained, done.bad, shards.count, perf_counter() - start, resumed.rows)


def _run(shards: Shards, make: Make, progress: bool) -> tuple[Counts, Counts]:
    """All shards that are not there yet; what is in all of them, and what was before."""
    before = {number: counts for number in range(shards.count) if (counts := shards.sink.whole(number)) is not None}
    waiting = [number for number in range(shards.count) if number not in before]
    resumed = sum(before.values(), Counts())
    with row_bar(shards.rows, progress, resumed.rows) as advance, closing(make(shards, waiting, advance)) as made:
        return sum(made, resumed), resumed


def _wanted(engine: Explain, source: Source, condition: Where | None) -> list[str]:
    """The columns that are read."""
    names = list(source.columns)
    unknown = [name for name in (condition.columns if condition else []) if name not in names]
    if unknown:
        raise InputError(f"where names a column {unknown[0]!r}, but there are {', '.join(names)}.")
    return list(dict.fromkeys([*engine.inputs.columns(names).values(), *(condition.columns if condition else [])]))


def _rows(size: int, batch: int, most: int) -> int:
    """How many rows of so many bytes: whole batches."""
    return max(1, min(most, MEMORY // max(size, 1)) // batch) * batch
