"""The atlas: channels that an explained picture uses, and the crops of pictures that most use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.run import Labels, to_numpy
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.pictures.common import choose
from lrp_compiler.pictures.pixels import flat, is_image, picture_of

from .common import named_inputs, rows_in
from .conditions import TARGET, conditional
from .samples import References
from .shares import channels as shares_of

Sample = Sequence[Any] | Callable[[int], Any]
"""A number of a sample → the sample, without the batch."""


@boundary("draw the atlas")
def atlas(
    explainer: Any,
    inputs: Any,
    found: References,
    samples: Sample,
    *,
    channels: int | Sequence[int] = 5,
    count: int = 4,
    without: Sequence[int] = (),
    target: int | None = None,
    picture: Any = None,
    pictures: Sample | None = None,
    crop: float = 0.5,
    smooth: float = 2.0,
    labels: Labels | None = None,
    title: str = "",
) -> Any:
    """A picture of concepts: for each channel the explained picture under the condition that relevance passes this
    channel alone, and beside it the crops of the samples that most use it, each with its own relevance under it.

    Args:
        explainer: of one input that is an image, in any number of rows; compiled with `observe=` and `masks=` for the
            path of `found`.
        inputs: one row of it, `[1, channels, height, width]`.
        found: the samples of each channel, by `references`.
        samples: number of a sample, as in `found` → it, as the network takes it, without the batch: a sequence (an
            array, a data set), or a function.
        channels: which ones, or how many: those with the largest share of the explained relevance.
        count: samples of each channel, at most as many as `found` has.
        without: numbers of samples that are not drawn: that of the explained row, if it is one of them.
        target: the class, for an explainer compiled with `target="index"`: of the samples, too.
        picture: what is drawn of the explained row, as the network saw it (cropped), at any resolution: a PIL image or
            an array. Default: the network's input, scaled to its own range.
        pictures: likewise of the samples, by number.
        crop: side of the square that is shown of a sample, as a share of the shorter side: where most of what speaks
            for the target through the channel lies. 1: all of it.
        smooth: standard deviation of a Gaussian, in pixels, that relevance is smoothed by.
        labels: the classes' names.
        title: a first line.

    Returns:
        A `matplotlib.figure.Figure` with `save(path)`, that is legible where it is as wide as a phone.

    Raises:
        InputError: the explainer takes no such conditions, or an option does not fit.
        LrpError: matplotlib is not there.
    """
    from lrp_compiler.pictures.atlas import Seen, looked_at
    from lrp_compiler.pictures.atlas import atlas as drawn
    from lrp_compiler.pictures.common import smoothed

    check_option("found", found, isinstance(found, References), "what references found")
    check_option("count", count, (whole_number(count) or 0) > 0, "how many samples of each channel, from 1 up")
    check_option("crop", crop, isinstance(crop, int | float) and 0 < crop <= 1, "a share above 0, at most 1")
    named = named_inputs(explainer.about, inputs)
    if rows_in(explainer.about, named) != 1:
        raise InputError(
            "An atlas is of one row, of an explainer that takes any number of them: give x[:1], and compile with an "
            "open batch."
        )
    options: dict[str, Any] = {} if target is None else {"target": target}
    shares = shares_of(explainer, named, found.path, **options)
    if shares.ndim != 2:
        raise InputError("An atlas is of one target: this explainer explains several.")
    chosen = _chosen(channels, shares[0])
    of_class = {} if target is None else {TARGET: target}
    whole = conditional(explainer, named, [{found.path: channel, **of_class} for channel in chosen])
    name = choose(whole, None, "an image, [batch, channels, height, width]", is_image)

    def seen(values: Any, relevance: Any, shown: Any, share: float) -> Seen:
        heat = flat(to_numpy(relevance))
        box = None if share == 1 else looked_at(smoothed(heat, smooth, (0, 1)), share)
        return Seen(picture_of(_image(values) if shown is None else shown, heat.shape), heat, box)

    rows = []
    for at, channel in enumerate(chosen):
        known = [int(number) for number in found.samples[channel] if number >= 0]
        numbers = [number for number in known if number not in without][:count]
        row = [seen(to_numpy(named[name])[0], whole.relevance[name][at][0], picture, 1)]
        if numbers:
            values = [_of(samples, number) for number in numbers]
            batch = {**named, name: _batched(values, named[name])}
            under = conditional(explainer, batch, [{found.path: channel, **of_class}]).relevance[name][0]
            shown = [None if pictures is None else _of(pictures, number) for number in numbers]
            row += [seen(*each, crop) for each in zip(values, under, shown, strict=True)]
        rows.append((f"channel {channel}: {shares[0][channel]:.1%} of Σ|relevance|", row))
    case = whole.explained(labels)[0]
    kind = "explained" if found.by == "relevance" else "activated"
    said = [
        title,
        f"{case.name}: {case.caption.partition(',')[0]}; {found.path}, composite {whole.run.composite}",
        f"first the explained picture, then crops of those, of {found.seen}, in which the channel is most {kind}",
    ]
    return drawn(rows, "\n".join(filter(None, said)), smooth=smooth)


def _chosen(channels: Any, shares: np.ndarray) -> list[int]:
    """Which channels are drawn."""
    number = whole_number(channels)
    if number is not None:
        check_option("channels", channels, number > 0, "how many channels, from 1 up, or which ones")
        return [int(channel) for channel in np.argsort(-shares, kind="stable")[:number]]
    numbers = [whole_number(one) for one in channels] if isinstance(channels, Sequence | np.ndarray) else [None]
    fits = bool(numbers) and all(one is not None and 0 <= one < len(shares) for one in numbers)
    check_option("channels", channels, fits, f"numbers of channels from 0 to {len(shares) - 1}, or how many of them")
    return [int(one) for one in numbers if one is not None]


def _of(samples: Sample, number: int) -> Any:
    """A sample by its number."""
    try:
        return samples(number) if callable(samples) else samples[number]
    except (IndexError, KeyError) as error:
        raise InputError(f"samples hold no number {number}, which the references name.") from error


def _batched(values: list[Any], like: Any) -> Any:
    """Samples as a batch of the kind that the explainer takes."""
    arrays = np.stack([to_numpy(value) for value in values])
    return arrays if isinstance(like, np.ndarray) else like.new_tensor(arrays)


def _image(values: Any) -> np.ndarray:
    """What the network takes, in its own range."""
    array = to_numpy(values).astype(np.float64)
    return (array - array.min()) / (np.ptp(array) or 1)
