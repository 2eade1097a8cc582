"""What concepts are made of: inputs by name, observed relevance, and where its channels are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError, did_you_mean
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.reductions import HALF, SUMS
from lrp_compiler.base.run import to_numpy
from lrp_compiler.explanation import Explanation


def named_inputs(about: Metadata, inputs: Any) -> dict[str, Any]:
    """The model's inputs by name, whether one was given or several."""
    if isinstance(inputs, Mapping) or hasattr(inputs, "keys"):
        return dict(inputs)
    return {about.inputs[0].name: inputs}


def batch_of(about: Metadata) -> int | str:
    """The size of the batch, or what it is called where it is open."""
    target = [spec.shape for spec in about.choices if spec.name == "target"]
    if target:
        return target[0][0 if about.explains_answer else -1]  # [batch, sequence], or [targets, batch]
    if any("batch" in spec.shape for spec in about.inputs):
        return "batch"
    explained = about.outputs[about.explained].shape
    return explained[0] if explained else 1


def rows_in(about: Metadata, named: Mapping[str, Any]) -> int:
    """How many rows the batch of these inputs has."""
    batch = batch_of(about)
    if isinstance(batch, int):
        return batch
    for spec in about.inputs:
        if batch in spec.shape and spec.name in named:
            return int(np.shape(named[spec.name])[spec.shape.index(batch)])
    first: Any = named[about.inputs[0].name] if about.inputs[0].name in named else next(iter(named.values()))
    return int(np.shape(first)[0])


def relevance_of(explanation: Explanation[Any], path: str) -> Any:
    """The relevance of an observed value; raises `InputError` if it is not returned, or reduced."""
    relevance = explanation.relevance
    if path not in relevance:
        hint = did_you_mean(path, relevance)
        raise InputError(f"The relevance of {path!r} is not returned{hint}: compile with observe=[{path!r}].")
    if not set(explanation.run.about.reduce) <= {SUMS, HALF}:
        raise InputError(f"The relevance of {path!r} is reduced, and concepts are told by all of it: leave reduce out.")
    return relevance[path]


def lead(explanation: Explanation[Any]) -> int:
    """How many dims relevance has in front of the batch: one of conditions or targets, or none."""
    return int(explanation.run.several is not None)


def batch_dim(about: Metadata, path: str, rank: int) -> int | None:
    """The dim of the batch of an observed value; None: it shares one with positions, say.

    Of values of which the file says no shape it is the first.
    """
    shapes = [entry.tensor.shape[-rank:] for entry in about.relevance if entry.input == path and rank]
    batch = batch_of(about)
    return 0 if not shapes else shapes[0].index(batch) if batch in shapes[0] else None


def channel_dim(about: Metadata, path: str, rank: int, given: int | None) -> int:
    """The dim of the channels of a value."""
    known = [latent.dim for latent in about.latents if latent.path == path and latent.dim is not None]
    known += [entry.channels for entry in about.relevance if entry.input == path and entry.channels is not None]
    dim = given if given is not None else known[0] if known else 2 if rank == 3 else 1
    if not -rank <= dim < rank or not dim % rank:
        raise InputError(f"{path!r} has {rank} dims: its channels are in one behind the batch, not in {dim}.")
    return dim % rank


def by_row(about: Metadata, path: str, values: np.ndarray, dim: int | None, front: int = 0) -> np.ndarray:
    """The values of an observed value as `[batch, channels, …]`, `front` dims before that.

    Args:
        about: what the explainer says about itself.
        path: of the value.
        values: in its own shape.
        dim: of the channels, as `channels` takes it.
        front: how many dims there are in front of the value's own.

    Raises:
        InputError: there is no such dim, or none of the batch alone.
    """
    rank = values.ndim - front
    chosen, batch = channel_dim(about, path, rank, dim), batch_dim(about, path, rank)
    if batch is None or batch == chosen:
        raise InputError(
            f"{path!r} has shape {list(values.shape[front:])}, in which no dim is the batch's alone, and concepts are "
            "told row by row: choose a value around it that has one."
        )
    return np.moveaxis(values, (front + batch, front + chosen), (front, front + 1))


def sums_of(explanation: Explanation[Any], path: str, dim: int | None = None) -> np.ndarray:
    """The relevance of each channel of an observed value: float64 `[batch, channels]`, conditions in front.

    Args:
        explanation: in which it is observed.
        path: of the value.
        dim: of the channels, as `channels` takes it.

    Raises:
        InputError: its relevance is not returned, or is reduced, or there is no such dim.
    """
    R, front = to_numpy(relevance_of(explanation, path)).astype(np.float64), lead(explanation)
    ordered = by_row(explanation.run.about, path, R, dim, front)
    summed: np.ndarray = ordered.sum(tuple(range(front + 2, ordered.ndim)))
    return summed


def normalised(sums: np.ndarray) -> np.ndarray:
    """Divided by the sum of sizes over the channels; zeros stay."""
    sizes = np.abs(sums).sum(-1, keepdims=True)
    return sums / np.where(sizes == 0, 1.0, sizes)
