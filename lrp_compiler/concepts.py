"""Concepts: which channels, heads and features made it say so, where, and what else makes them speak. Torch-free.

    explainer = lrp.compile(model, (x,), target="index", masks="features.28", observe="features.28")
    concepts.conditional(explainer, x, [{"features.28": [50], "y": 1}, {"features.28": [3, 7], "y": 1}])
    concepts.channels(explainer, x, "features.28", target=1)
    concepts.references(explainer, batches, "features.28", k=8)

Source: Achtibat et al., "From attribution maps to human-understandable explanations through Concept Relevance
Propagation", Nature Machine Intelligence 5 (2023), arXiv 2206.03208.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import FormatError, InputError, did_you_mean
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.metadata import LatentSpec, Metadata
from lrp_compiler.base.reductions import HALF, SUMS
from lrp_compiler.base.run import to_numpy
from lrp_compiler.base.validate import TensorSpec, check_option, whole_number

from .explanation import Explanation

By = Literal["relevance", "activation"]
TARGET = "y"
"""What a condition calls the class."""


@boundary("explain under conditions")
def conditional(explainer: Any, inputs: Any, conditions: Sequence[Mapping[str, Any]]) -> Explanation[Any]:
    """Relevance that passes chosen channels alone, for several choices at once: the forward is run once.

    Args:
        explainer: compiled with `masks=` for the paths, and with `target="index"` where conditions name a class.
        inputs: the model's input; several as a dict by name.
        conditions: each a dict: path → the channels (heads, features) that relevance may pass there, one number or
            several, or an array of weights `[channels]`; `"y"` → the class. Paths are an AND, channels of one an OR.

    Returns:
        The explanation, relevance `[conditions, batch, …]`; what by-passes a layer is in it, unless the layer was
        compiled as `lrp.Mask(path, exclude_parallel=True)`.

    Raises:
        InputError: a condition that does not fit the explainer.
    """
    about: Metadata = explainer.about
    fits = isinstance(conditions, Sequence) and all(isinstance(one, Mapping) for one in conditions) and len(conditions)
    check_option("conditions", conditions, bool(fits), "a list of dicts, one at least")
    named = _named(about, inputs)
    masked = {latent.path: latent for latent in about.latents if latent.kind == "mask"}
    unknown = [path for one in conditions for path in one if path != TARGET and path not in masked]
    if unknown:
        hint = did_you_mean(unknown[0], masked)
        takes = f"it takes {', '.join(masked)}" if masked else f"compile with masks=[{unknown[0]!r}]"
        raise InputError(f"A condition names {unknown[0]!r}, of which this explainer takes no mask{hint}: {takes}.")
    given: dict[str, Any] = {}
    for path in dict.fromkeys(path for one in conditions for path in one if path != TARGET):
        count = _channels(about, masked[path])
        given[path] = np.stack([_mask(path, one.get(path), count) for one in conditions])[:, None]
    if not given:  # classes alone
        for first in list(masked)[:1]:
            given[first] = np.ones((len(conditions), 1, _channels(about, masked[first])), np.float32)
    options: dict[str, Any] = {"masks": given} if given else {}
    indexed = [spec for spec in about.choices if spec.name == "target"]
    classes = [one.get(TARGET) for one in conditions]
    if indexed and None in classes:
        raise InputError(f"Condition {classes.index(None)} names no class: this explainer takes one, so give 'y'.")
    if not indexed and any(one is not None for one in classes):
        raise InputError("Conditions name classes ('y'): compile with target='index' to choose them at run time.")
    if indexed:
        numbers = [whole_number(one) for one in classes]
        if None in numbers:
            raise InputError(f"A condition's class 'y' is a whole number, not {classes[numbers.index(None)]!r}.")
        options["target"] = np.repeat(np.array(numbers, np.int64)[:, None], _rows(about, named), 1)
    if about.several is not None and about.several != len(conditions):
        raise InputError(
            f"This explainer was compiled for {about.several} targets at once, and there are {len(conditions)} "
            "conditions: give as many, or compile without count=."
        )
    explanation: Explanation[Any] = explainer(**named, **options)
    return explanation


@boundary("share relevance among channels")
def channels(
    explainer: Any, inputs: Any, path: str, *, normalise: bool = True, dim: int | None = None, **options: Any
) -> np.ndarray:
    """The relevance of each channel (head, feature) of a value: summed over all else.

    Args:
        explainer: compiled with `observe=` for the path.
        inputs: the model's input; several as a dict by name.
        path: of the value, as in `explanation.relevance`.
        normalise: divide by Σ|relevance| over the channels, row by row, as CRP does; False: as it is.
        dim: of the channels, counted without conditions; by default that of the value's mask, else the last of three
            dims and the one behind the batch of others.
        options: what else a call takes: target, masks, ….

    Returns:
        float64 `[batch, channels]`, or `[conditions, batch, channels]`.

    Raises:
        InputError: the path is not observed, or what `explainer` raises.
    """
    explanation = explainer(**_named(explainer.about, inputs), **options)
    R = to_numpy(_relevance_of(explanation, path)).astype(np.float64)
    sums = _summed(R, _dim(explainer.about, path, R.ndim - _lead(explanation), dim) + _lead(explanation), explanation)
    return _normalised(sums) if normalise else sums


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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as `.npz`, to be looked at, or to go on later: whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **vars(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> References:
        """Read what `save` wrote; raises `FormatError` if it is nothing of the kind."""
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
        named = _named(explainer.about, batch)
        rows = _rows(explainer.about, named)
        if start + rows > skip:
            if start < skip:
                raise InputError(f"resume ends at sample {skip}, inside a batch: give batches of the same sizes.")
            found = _merged(found, path, by, k, start, *_scores(explainer, named, path, by, dim, options))
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
        if _lead(explanation):
            raise InputError("References are looked for by one target: relevance of several has a dim in front.")
        values = to_numpy(_relevance_of(explanation, path)).astype(np.float64)
    first = np.moveaxis(values, _dim(explainer.about, path, values.ndim, dim), 1)
    flat = first.reshape(*first.shape[:2], -1)
    scores = _normalised(flat.sum(-1)) if by == "relevance" else flat.max(-1)
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


def _named(about: Metadata, inputs: Any) -> dict[str, Any]:
    """The model's inputs by name, whether one was given or several."""
    if isinstance(inputs, Mapping) or hasattr(inputs, "keys"):
        return dict(inputs)
    return {about.inputs[0].name: inputs}


def _rows(about: Metadata, named: Mapping[str, Any]) -> int:
    """How many rows the batch of these inputs has."""
    batch = next((spec.shape[-1] for spec in about.choices if spec.name == "target"), "batch")
    if isinstance(batch, int):
        return batch
    for spec in about.inputs:
        if batch in spec.shape and spec.name in named:
            return int(np.shape(named[spec.name])[spec.shape.index(batch)])
    first: Any = named[about.inputs[0].name] if about.inputs[0].name in named else next(iter(named.values()))
    return int(np.shape(first)[0])


def _mask(path: str, chosen: Any, count: int) -> np.ndarray:
    """The mask of one condition: ones where it chooses; weights as they are."""
    mask = np.zeros(count, np.float32)
    if chosen is None:
        return mask + 1
    try:
        array = to_numpy(chosen) if hasattr(chosen, "dtype") else np.asarray(chosen)
    except (ValueError, TypeError) as error:  # rows of different lengths
        raise InputError(f"A condition of {path!r} is numbers of channels, or weights, not {chosen!r}.") from error
    if isinstance(chosen, list | tuple) and not chosen:  # none of them
        return mask
    if array.dtype.kind in "fb":
        if array.shape != (count,):
            raise InputError(f"The weights of {path!r} have shape {list(array.shape)}, but it has {count} channels.")
        return array.astype(np.float32)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"A condition of {path!r} is numbers of channels, or weights, not {chosen!r}.")
    numbers = array.reshape(-1).astype(np.int64)
    wrong = [int(number) for number in numbers if not -count <= number < count]
    if wrong:
        raise InputError(f"Channel {wrong[0]} is out of range: {path!r} has {count}, 0 to {count - 1}.")
    mask[numbers] = 1
    return mask


def _channels(about: Metadata, latent: LatentSpec) -> int:
    spec: TensorSpec = next(spec for spec in about.seed_inputs if spec.name == latent.name)
    if latent.dim is None or not isinstance(spec.shape[-1], int):
        raise InputError(f"The mask of {latent.path!r} is no list of channels: give it in a call, masks=….")
    return spec.shape[-1]


def _relevance_of(explanation: Explanation[Any], path: str) -> Any:
    relevance = explanation.relevance
    if path not in relevance:
        hint = did_you_mean(path, relevance)
        raise InputError(f"The relevance of {path!r} is not returned{hint}: compile with observe=[{path!r}].")
    if not set(explanation.run.about.reduce) <= {SUMS, HALF}:
        raise InputError(f"The relevance of {path!r} is reduced, and concepts are told by all of it: leave reduce out.")
    return relevance[path]


def _lead(explanation: Explanation[Any]) -> int:
    return int(explanation.run.several is not None)


def _dim(about: Metadata, path: str, rank: int, given: int | None) -> int:
    """The dim of the channels of a value."""
    known = [latent.dim for latent in about.latents if latent.path == path and latent.dim is not None]
    dim = given if given is not None else known[0] if known else 2 if rank == 3 else 1
    if not -rank <= dim < rank or not dim % rank:
        raise InputError(f"{path!r} has {rank} dims: its channels are in one behind the batch, not in {dim}.")
    return dim % rank


def _summed(R: np.ndarray, dim: int, explanation: Explanation[Any]) -> np.ndarray:
    kept = {*range(_lead(explanation) + 1), dim}
    summed: np.ndarray = R.sum(tuple(axis for axis in range(R.ndim) if axis not in kept))
    return summed


def _normalised(sums: np.ndarray) -> np.ndarray:
    """Divided by the sum of sizes over the channels; zeros stay."""
    sizes = np.abs(sums).sum(-1, keepdims=True)
    return sums / np.where(sizes == 0, 1.0, sizes)
