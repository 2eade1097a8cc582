"""Relevance under conditions: what passes chosen channels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError, did_you_mean
from lrp_compiler.base.latents import Passing
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.run import to_numpy
from lrp_compiler.base.specs import LatentSpec, TensorSpec
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.explanation import Explanation

from .common import named_inputs, rows_in

TARGET = "y"
"""What a condition calls the class."""


@boundary("explain under conditions")
def conditional(
    explainer: Any, inputs: Any, conditions: Sequence[Mapping[str, Any]], **options: Any
) -> Explanation[Any]:
    """Relevance that passes chosen channels alone, for several choices at once: the forward is run once.

    Args:
        explainer: compiled with `masks=` for the paths, and with `target="index"` where conditions name a class.
        inputs: the model's input; several as a dict by name.
        conditions: each a dict: path → the channels (heads, features) that relevance may pass there, one number or
            several, or an array of weights `[channels]`; `"y"` → the class. Paths are an AND, channels of one an OR.
        options: what else a call takes, the same under all conditions: weights, seed, position, ….

    Returns:
        The explanation, relevance `[conditions, batch, …]`; what by-passes a layer is in it, unless the layer was
        compiled as `lrp.Mask(path, exclude_parallel=True)`.

    Raises:
        InputError: a condition that does not fit the explainer, or an option that conditions speak for.
    """
    about: Metadata = explainer.about
    spoken = [name for name in ("masks", "target") if name in options]
    if spoken:
        said = "channels stand under their path" if spoken[0] == "masks" else "the class under 'y'"
        raise InputError(f"{spoken[0]}= is what conditions say: {said}.")
    fits = isinstance(conditions, Sequence) and all(isinstance(one, Mapping) for one in conditions) and len(conditions)
    check_option("conditions", conditions, bool(fits), "a list of dicts, one at least")
    named = named_inputs(about, inputs)
    masked = {latent.path: latent for latent in about.latents if latent.kind == "mask"}
    unknown = [path for one in conditions for path in one if path != TARGET and path not in masked]
    if unknown:
        hint = did_you_mean(unknown[0], masked)
        takes = f"it takes {', '.join(masked)}" if masked else f"compile with masks=[{unknown[0]!r}]"
        raise InputError(f"A condition names {unknown[0]!r}, of which this explainer takes no mask{hint}: {takes}.")
    given: dict[str, Any] = {}
    for path in dict.fromkeys(path for one in conditions for path in one if path != TARGET):
        count = _channels(about, masked[path])
        mask = np.stack([_mask(path, one.get(path), count) for one in conditions])[:, None]
        given[path] = Passing(mask, np.array([[one.get(path) is None] for one in conditions], np.float64))
    if not given:  # classes alone
        for first in list(masked)[:1]:
            dims = len(_spec(about, masked[first]).shape) - (about.several is not None)
            given[first] = Passing(np.ones((len(conditions), *(1,) * dims)), np.ones(()))
    if given:
        options["masks"] = given
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
        options["target"] = np.repeat(np.array(numbers, np.int64)[:, None], rows_in(about, named), 1)
    if not given and not indexed:
        raise InputError(
            "This explainer takes no masks and no class, so conditions choose nothing: compile with masks=."
        )
    if about.several is not None and about.several != len(conditions):
        raise InputError(
            f"This explainer was compiled for {counted(about.several, 'target')} at once, and the conditions are "
            f"{len(conditions)}: give as many, or compile it for one."
        )
    explanation: Explanation[Any] = explainer(**named, **options)
    return explanation


def _mask(path: str, chosen: Any, count: int) -> np.ndarray:
    """The mask of one condition: ones where it chooses; weights as they are."""
    mask = np.zeros(count)
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
        return array.astype(np.float64)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"A condition of {path!r} is numbers of channels, or weights, not {chosen!r}.")
    numbers = array.reshape(-1).astype(np.int64)
    wrong = [int(number) for number in numbers if not -count <= number < count]
    if wrong:
        raise InputError(f"Channel {wrong[0]} is out of range: {path!r} has {count}, 0 to {count - 1}.")
    mask[numbers] = 1
    return mask


def _channels(about: Metadata, latent: LatentSpec) -> int:
    spec = _spec(about, latent)
    if latent.dim is None or not isinstance(spec.shape[-1], int):
        raise InputError(f"The mask of {latent.path!r} is no list of channels: give it in a call, masks=….")
    return spec.shape[-1]


def _spec(about: Metadata, latent: LatentSpec) -> TensorSpec:
    """Of the input that takes the mask."""
    return next(spec for spec in about.seed_inputs if spec.name == latent.name)
