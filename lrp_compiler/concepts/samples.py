"""The samples that most use a channel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import FormatError, InputError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.run import to_numpy
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.formats import PARQUET, ends_in

from .common import by_row, lead, named_inputs, normalised, relevance_of, rows_in

By = Literal["relevance", "activation"]


@dataclass
class References:
    """The samples that most use each channel.

    Args:
        path: of the value whose channels they are.
        by: what they are ordered by.
        samples: int64 `[channels, k]`: numbers of samples in the order of the data, the first ones first; −1: none yet.
        scores: float64 `[channels, k]`, largest first; −∞ where there is none yet.
        places: float64 `[channels, k, places]`: where in the value's map the channel has most of it, from 0 to 1 along
            each dim behind the channels': the middle of what it looks at.
        seen: how many samples have been looked at.
    """

    path: str
    by: By
    samples: np.ndarray
    scores: np.ndarray
    places: np.ndarray
    seen: int = 0

    @boundary("save the references")
    def save(self, path: str | os.PathLike[str], ids: Any = None) -> None:
        """Write them, to be looked at, or to go on later: whole or not at all.

        Args:
            path: as `.npz`; if it ends in `.parquet` (needs pyarrow, by the extra `data`), a row for each channel and
                sample: channel, rank, sample, score, place.
            ids: what the samples are called, `[channels, k]`, to stand beside them.
        """
        if ends_in(path, PARQUET):
            from lrp_compiler.data import references as as_parquet

            as_parquet.write(self, path, ids)
            return
        more = {} if ids is None else {"id": np.asarray(ids)}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **vars(self), **more)

    @classmethod
    @boundary("load the references")
    def load(cls, path: str | os.PathLike[str]) -> References:
        """Read what `save` wrote; raises `FormatError` if it is nothing of the kind."""
        if ends_in(path, PARQUET):
            from lrp_compiler.data import references as as_parquet

            return cls(**as_parquet.read(path))
        try:
            with np.load(path, allow_pickle=False) as held:
                known = {name: held[name] for name in ("samples", "scores", "places")}
                return cls(str(held["path"]), str(held["by"]), **known, seen=int(held["seen"]))  # type: ignore[arg-type]
        except (ValueError, KeyError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise FormatError(f"{os.fspath(path)!r} holds no references, or is damaged.") from error


@boundary("look for references")
def references(
    explainer: Any,
    data: Iterable[Any],
    path: str,
    *,
    by: By = "relevance",
    k: int = 8,
    resume: References | None = None,
    dim: int | None = None,
    told: Callable[[References], None] | None = None,
    **options: Any,
) -> References:
    """The samples that most use each channel of a value; batch after batch, so that no more than one is held.

    Args:
        explainer: compiled with `observe=` for the path; for activations an `Explainer`, not an ONNX file.
        data: batches of the model's input (several as a dict by name), in the same order each time.
        path: of the value.
        by: "relevance": of the channel, summed over its map, normalised row by row (RelMax); "activation": its largest
            activation (ActMax).
        k: how many of each channel.
        resume: what was found before, in the first samples of `data`, which are passed over.
        dim: of the channels, as in `channels`.
        told: called with what was found so far, after each batch: to keep it, or to show how far it is.
        options: what else a call takes: target, ….

    Raises:
        InputError: an option of a wrong kind; the path is not observed; `resume` is of something else.
    """
    check_option("by", by, by in get_args(By), "'relevance' or 'activation'")
    check_option("k", k, (whole_number(k) or 0) > 0, "how many samples of each channel, from 1 up")
    if by == "activation" and not hasattr(explainer, "activation"):
        raise InputError("An ONNX file returns no activations: give the explainer's .lrp.pt2 file, or by='relevance'.")
    if resume is not None and (resume.path, resume.by, resume.samples.shape[1]) != (path, by, k):
        raise InputError(f"resume holds {resume.samples.shape[1]} references of {resume.path!r} by {resume.by}.")
    skip, found, start = (0 if resume is None else resume.seen), resume, 0
    for batch in data:
        named = named_inputs(explainer.about, batch)
        rows = rows_in(explainer.about, named)
        if start + rows > skip:
            if start < skip:
                raise InputError(f"resume ends at sample {skip}, inside a batch: give batches of the same sizes.")
            found = _merged(found, path, by, k, start, *_scores(explainer, named, path, by, dim, options))
            if told is not None:
                told(found)
        start += rows
    if found is None:
        raise InputError("data holds no samples.")
    return found


def _scores(
    explainer: Any, named: Mapping[str, Any], path: str, by: By, dim: int | None, options: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Score of each channel `[batch, channels]`, and where in its map most of it lies `[batch, channels, places]`."""
    if by == "activation":
        values = to_numpy(explainer.activation(path, **named)).astype(np.float64)
    else:
        explanation = explainer(**named, **options)
        if lead(explanation):
            raise InputError("References are looked for by one target: relevance of several has a dim in front.")
        values = to_numpy(relevance_of(explanation, path)).astype(np.float64)
    first = by_row(explainer.about, path, values, dim)
    flat = first.reshape(*first.shape[:2], -1)
    scores = normalised(flat.sum(-1)) if by == "relevance" else flat.max(-1)
    sizes = first.shape[2:]
    at = np.stack(np.unravel_index(flat.argmax(-1), sizes), -1) if sizes else np.zeros((*flat.shape[:2], 0))
    return scores, (at + 0.5) / np.array(sizes, np.float64) if sizes else at


def _merged(
    known: References | None, path: str, by: By, k: int, start: int, scores: np.ndarray, places: np.ndarray
) -> References:
    """The best of what is known and of a batch."""
    rows, count = scores.shape
    if known is None:
        nothing = np.full((count, k), -np.inf)
        known = References(path, by, np.full((count, k), -1), nothing, np.zeros((count, k, places.shape[-1])))
    samples = np.concatenate([known.samples, np.broadcast_to(np.arange(start, start + rows), (count, rows))], 1)
    every = np.concatenate([known.scores, np.where(np.isnan(scores), -np.inf, scores).T], 1)
    where = np.concatenate([known.places, places.swapaxes(0, 1)], 1)
    best = np.argsort(-every, 1, kind="stable")[:, :k]
    chosen = np.take_along_axis(where, best[:, :, None], 1)
    return References(
        path,
        by,
        np.take_along_axis(samples, best, 1),
        np.take_along_axis(every, best, 1),
        chosen,
        start + rows,
    )
