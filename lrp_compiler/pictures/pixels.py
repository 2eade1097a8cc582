"""Relevance of pixels, and the picture that it lies on, as arrays. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import to_numpy

COLOURED = (1, 3, 4)
"""Numbers of channels that a picture may have."""


def aggregated(explanation: Results[Any]) -> Results[Any]:
    """With what is summed over values of the network in place of relevance."""
    if not explanation.aggregate:
        raise InputError("Nothing is summed over values of the network here: compile with aggregate=.")
    return replace(explanation, relevance=explanation.aggregate)


def is_image(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a row of relevance of that shape, of an input of that dtype, can be drawn as one."""
    return len(shape) == 3 or (len(shape) == 2 and "int64" not in dtype)


def flat(values: np.ndarray) -> np.ndarray:
    """`[height, width]`: the channels added up."""
    values = values.astype(np.float64)
    return values if values.ndim == 2 else values.sum(_channel_axis(values.shape))


def _channel_axis(shape: tuple[int, ...]) -> int:
    return -1 if shape[-1] in COLOURED and shape[0] not in COLOURED else 0


def pictures_of(
    image: Any, seen: Any, rows: Sequence[int], batch: int, shape: tuple[int, ...], option: str
) -> Sequence[np.ndarray | None]:
    """For each row a picture `[height, width, 3]` in [0, 1], or None.

    Args:
        image: one picture; or several, one for each row that is drawn, or for each of the batch; None: what was seen.
        seen: what the network saw, all of the batch.
        rows: those that are drawn.
        batch: how many there are.
        shape: of a row's relevance.
        option: by which a caller chooses rows, for messages.

    Raises:
        InputError: another number of pictures, or of another aspect.
    """
    if image is False or (image is None and seen is None):
        return [None] * len(rows)
    if image is None:
        whole = to_numpy(seen)
        given = [whole[row] for row in rows]
        channels = 1 if given[0].ndim == 2 else given[0].shape[_channel_axis(given[0].shape)]
        return [picture_of(one, shape) if channels in COLOURED else None for one in given]
    several = isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4
    images = list(image) if several else [image]
    if len(images) == batch != len(rows):
        images = [images[row] for row in rows]
    if len(images) != len(rows):
        which = f"choose a row with {option}, or " * (len(images) == 1)
        each = (
            f"one for each of the {len(rows)} rows drawn" if len(rows) > 1 else f"one for row {rows[0]}, which is drawn"
        )
        whole_batch = f", or for each of the batch's {batch}" * (len(rows) < batch)
        raise InputError(
            f"{counted(len(images), 'picture')} cannot lie under {counted(len(rows), 'row')}: {which}give {each}"
            f"{whole_batch}."
        )
    return [picture_of(one, shape) for one in images]


def picture_of(image: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A picture `[height, width, 3]` in [0, 1], of an image or an array, for relevance `[height, width]`.

    Raises:
        InputError: it is no picture, or has another aspect.
    """
    array = to_numpy(image)
    if array.ndim == 3 and _channel_axis(array.shape) == 0:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[-1] not in COLOURED:
        raise InputError(f"An image is [height, width], [height, width, 3] or [3, height, width], not {array.shape}.")
    height, width = array.shape[:2]
    if abs(height * shape[1] / (width * shape[0]) - 1) > 0.02:
        raise InputError(
            f"The image is {width} × {height}, relevance {shape[1]} × {shape[0]}: crop it as the network saw it."
        )
    colour = array[..., :3].astype(np.float64)
    if array.dtype == np.uint8:
        colour /= 255
    elif colour.min() < 0 or colour.max() > 1:
        colour = (colour - colour.min()) / (np.ptp(colour) or 1)
    return np.broadcast_to(colour, (height, width, 3))
