"""Relevance of sound: over time and frequency for spectrograms, over time for waveforms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import Labels, to_numpy

from .common import choose, drawn, limit_of, name_in, note, room, smoothed, wrapped
from .figure import COLOURS, Colormap, Picture, colour_bar, diverging

WINDOWS = 100
"""A waveform is cut into windows of a hundredth of a second; without a rate, into this many."""
SIZE, LINE = 9, 0.17
"""Of a caption: its font in points, and a line's height in inches."""
FLOOR = 80.0
"""Decibels below the loudest that a waveform's spectrogram shows."""


def spectrogram(
    explanation: Results[Any],
    *,
    input: str | None = None,
    labels: Labels | None = None,
    rows: Iterable[int] | int | None = None,
    rate: float | None = None,
    seconds: float | None = None,
    time_axis: int = -1,
    percentile: float = 99.9,
    limit: float | None = None,
    smooth: float = 0.0,
    colours: str | Colormap = COLOURS,
    columns: int | None = None,
    title: str = "",
) -> Picture:
    """Draw what sound made the target: the spectrogram, and below it the relevance of each moment.

    A spectrogram (mel bands, say) gets its relevance on top of it. Samples have no frequency of their own: of a
    waveform the spectrogram is there to find one's way, and relevance stands below, summed over windows.

    Args:
        explanation: of an input `[batch, bands, frames]` (`[batch, 1, bands, frames]`, or `time_axis=-2`), or of
            samples `[batch, samples]`, `[batch, 1, samples]`.
        input: whose relevance; needed where several inputs are sound.
        labels: the classes' names.
        rows: which rows of the batch; default: all.
        rate: frames, or samples, in a second; default: time is counted in frames or samples.
        seconds: how much of it to draw (in frames or samples without a rate); default: all. What relevance lies
            behind that is stated.
        time_axis: which axis of a spectrogram is time.
        percentile: colours end at this percentile of the |relevance| of each part; 100: at the largest.
        limit: the relevance at which the colours of all parts end, instead.
        smooth: standard deviation of a Gaussian, in frames and bands (windows), that relevance is smoothed by.
        colours: a diverging colour map of matplotlib.
        columns: parts side by side; default: 3.
        title: a first line.

    Raises:
        LrpError: matplotlib is not there.
        InputError: no relevance of sound, or an unknown option.
    """
    cases, palette = drawn(explanation, rows, labels), diverging(colours)
    name = choose(explanation, input, "sound, [batch, bands, frames] or [batch, samples]", _is_sound)
    heard = explanation.run.inputs.get(name)
    if heard is None:
        raise InputError(f"{name!r} is no input of the model: a spectrogram shows what went in.")
    whole = to_numpy(heard)
    wide = columns or min(len(cases), 3)
    tall = -(-len(cases) // wide)
    across = max(4.6 * wide, 7)
    letters = room(across / wide, SIZE)
    titles = [[*name_in(case.name, letters), *wrapped(case.caption, letters)] for case in cases]
    high = 2.9 + LINE * max(map(len, titles))
    figure = Picture(figsize=(across, high * tall + 1.6), layout="constrained")
    grid = figure.add_gridspec(2 * tall, wide, height_ratios=[2, 1] * tall)
    axes, limits, parts = [], [], []
    for at, case in enumerate(cases):
        row, column = divmod(at, wide)
        above = figure.add_subplot(grid[2 * row, column])
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=above)
        axes += [above, below]
        sound, relevance, step = _bands(whole[case.row], explanation.of(case, name), rate, time_axis)
        step = step / rate if rate else step
        shown = len(relevance.T) if seconds is None else max(1, min(round(seconds / step), len(relevance.T)))
        spread = smoothed(relevance[:, :shown], smooth, (0, 1) if len(relevance) > 1 else (1,))
        limits.append(limit_of(spread, percentile, limit))
        parts.append(spread)
        where: dict[str, Any] = {"origin": "lower", "aspect": "auto", "extent": (0, shown * step, 0, len(sound))}
        above.imshow(sound[:, : round(shown * sound.shape[1] / len(relevance.T))], cmap="gray", **where)
        if len(relevance) > 1:
            opacity = np.abs(np.clip(spread / limits[-1], -1, 1)) ** 0.5
            above.imshow(spread, cmap=palette, vmin=-limits[-1], vmax=limits[-1], alpha=opacity, **where)
        _curve(below, spread.sum(0), step, palette)
        behind = float(relevance[:, shown:].sum())
        hidden = [f"behind what is shown: {behind:.3g}"] if shown < len(relevance.T) else []
        above.set_title("\n".join([*titles[at], *hidden]), fontsize=SIZE)
        above.set_ylabel("band" if len(relevance) > 1 else "frequency bin", fontsize=8)
        above.tick_params(labelbottom=False)
        below.set_xlabel("seconds" if rate else "frame" if len(relevance) > 1 else "sample", fontsize=8)
        below.set_ylabel("relevance", fontsize=8)
        for axis in (above, below):
            axis.tick_params(labelsize=8)
    colour_bar(figure, axes, palette, limits)
    done = note(parts, percentile, limit, smooth, "frames")
    figure.suptitle("\n".join(filter(None, [title, explanation.run.heading, done])), fontsize=10)
    return figure


def _is_sound(shape: tuple[int, ...], dtype: str) -> bool:
    return "float" in dtype and (len(shape) <= 2 or (len(shape) == 3 and shape[0] == 1))


def _bands(
    sound: np.ndarray, relevance: np.ndarray, rate: float | None, time_axis: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """What is heard as `[bands, frames]`, its relevance `[bands or 1, frames]`, and a frame's length in elements."""
    relevance = relevance.astype(np.float64)
    while sound.ndim > 1 and len(sound) == 1:
        sound, relevance = sound[0], relevance[0]
    if sound.ndim == 2:
        return np.moveaxis(sound, time_axis, -1), np.moveaxis(relevance, time_axis, -1), 1.0
    hop = max(1, round(rate / 100) if rate else len(sound) // WINDOWS)
    summed = np.add.reduceat(relevance, np.arange(0, len(relevance), hop))[np.newaxis]
    return _decibels(sound, hop), summed, float(hop)


def _decibels(samples: np.ndarray, hop: int) -> np.ndarray:
    """Power of a waveform's short-time Fourier transform in dB, `[bins, frames]`: one frame for each hop."""
    width = 4 * hop
    padded = np.pad(samples.astype(np.float64), (width // 2, width))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop][: -(-len(samples) // hop)]
    power = np.abs(np.fft.rfft(frames * np.hanning(width))) ** 2
    loud = 10 * np.log10(np.maximum(power.T, 1e-20))
    return np.maximum(loud, loud.max() - FLOOR)


def _curve(axis: Any, moments: np.ndarray, step: float, colours: Colormap) -> None:
    at = (np.arange(len(moments)) + 0.5) * step
    for side, end in ((moments.clip(min=0), 0.9), (moments.clip(max=0), 0.1)):
        axis.fill_between(at, side, color=colours(end), linewidth=0)
    axis.axhline(0, color="black", linewidth=0.6)
    top = 1.1 * float(np.abs(moments).max()) or 1.0
    axis.set(ylim=(-top, top), xlim=(0, len(moments) * step))
