"""Each channel's share of relevance."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrp_compiler.base.boundary import boundary

from .common import named_inputs, normalised, sums_of


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
        dim: of the channels, counted without conditions; by default that of the value's mask, or where a mask of it
            would have them.
        options: what else a call takes: target, masks, ….

    Returns:
        float64 `[batch, channels]`, or `[conditions, batch, channels]`.

    Raises:
        InputError: the path is not observed, its value has no dim of the batch alone, or what `explainer` raises.
    """
    explanation = explainer(**named_inputs(explainer.about, inputs), **options)
    sums = sums_of(explanation, path, dim)
    return normalised(sums) if normalise else sums
