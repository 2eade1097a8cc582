"""Relevance of pixels as a PNG, without matplotlib: an image, no figure. numpy and zlib only."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import Labels

from .common import choose, drawn, ends, limit_of, smoothed
from .pixels import aggregated, flat, is_image, pictures_of

RDBU = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"
"""ColorBrewer's eleven colours from −1 to 1, those of matplotlib's RdBu_r."""
_ENDS = np.array([[*bytes.fromhex(colour)] for colour in RDBU.split()], np.float64)
DARK, LIGHT = -0.8, 1.2
"""Where black and white of the picture below would be: pale, so that both ends of the colours stand out."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image of relevance.

    Args:
        pixels: uint8 `[height, width, 3]`.
        caption: what was explained, by which composite, and where the colours end; it stands in the file as well.
    """

    pixels: np.ndarray
    caption: str

    def png(self) -> bytes:
        """The content of a PNG file; the caption is its text "Description"."""
        height, width, _ = self.pixels.shape
        header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
        rows = np.pad(self.pixels.reshape(height, -1), ((0, 0), (1, 0)))  # 0 in front of a row: unfiltered
        # Keyword, not compressed, no language, no keyword in it; the text is UTF-8.
        text = b"Description\0\0\0\0\0" + self.caption.encode()
        parts = ((b"IHDR", header), (b"iTXt", text), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the PNG, whole or not at all.

        Raises:
            InputError: the path does not end in .png.
            OSError: the folder is not there, or cannot be written to.
        """
        if not os.fspath(path).lower().endswith(".png"):
            raise InputError(f"Images are written as PNG: end the path with .png, not {os.path.basename(path)!r}.")
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.png())

    def __repr__(self) -> str:
        """Its size and caption."""
        height, width, _ = self.pixels.shape
        return f"Image({width} × {height}; {self.caption})"

    def _repr_png_(self) -> bytes:
        return self.png()


def image(
    explanation: Results[Any],
    image: Any = None,
    *,
    input: str | None = None,
    aggregate: bool = False,
    labels: Labels | None = None,
    row: int = 0,
    target: int = 0,
    percentile: float = 99.5,
    limit: float | None = None,
    smooth: float = 0.0,
) -> Image:
    """The relevance of one row of an image, summed over its channels; of matplotlib's heatmaps the "overlay" alone.

    Args:
        explanation: as `heatmap` takes it.
        image: what to lay it on, in grey, at any resolution, which is then that of the result: a PIL image or an array
            `[height, width]`, `[height, width, 3]` or `[3, height, width]`, or a list of these, one for each row of
            the batch. Default: the network's input. False: nothing; relevance stands alone.
        input: whose relevance; needed where several inputs are images.
        aggregate: what is summed over values of the network, instead of relevance.
        labels: the classes' names, for the caption.
        row: which row of the batch.
        target: which of several targets.
        percentile: the colours end at this percentile of |relevance|; 100: at the largest.
        limit: the relevance at which they end, instead.
        smooth: standard deviation of a Gaussian, in pixels, that relevance is smoothed by.

    Raises:
        InputError: no relevance of an image, an image of another aspect, no such row or target.
    """
    cases = drawn(explanation, row, labels)
    if not 0 <= target < len(cases):
        raise InputError(f"Target {target} cannot be drawn: there are {len(cases)}, from 0.")
    case = cases[target]
    shown = aggregated(explanation) if aggregate else explanation
    name = choose(shown, input, "an image, [batch, channels, height, width]", is_image)
    values = smoothed(flat(shown.of(case, name)), smooth, (0, 1))
    end = limit_of(values, percentile, limit)
    strength = np.clip(values / end, -1, 1)
    seen, batch = explanation.run.inputs.get(name), len(explanation.run.classes()[0])
    picture = pictures_of(image, seen, [case.row], batch, values.shape, "row=")[0]
    pixels = coloured(strength) if picture is None else _on(picture.mean(-1), strength)
    parts = [explanation.run.heading, f"{case.name}: {case.caption}", case.elsewhere, ends(values, end)]
    return Image(np.rint(pixels).astype(np.uint8), "; ".join(filter(None, parts)))


def coloured(strength: np.ndarray) -> np.ndarray:
    """Values in [−1, 1], of any shape, as colours: float64 `[..., 3]` in [0, 255]."""
    at = (strength + 1) / 2 * (len(_ENDS) - 1)
    places = np.arange(len(_ENDS))
    return np.stack([np.interp(at, places, channel) for channel in _ENDS.T], -1)


def _on(grey: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Relevance over the picture, the stronger the more opaque; float64 `[height, width, 3]` in [0, 255]."""
    near = [np.arange(size) * few // size for size, few in zip(grey.shape, strength.shape, strict=True)]
    spread = strength[np.ix_(*near)]
    opacity = np.sqrt(np.abs(spread))[..., np.newaxis]
    below = 255 * (grey[..., np.newaxis] - DARK) / (LIGHT - DARK)
    return np.asarray(opacity * coloured(spread) + (1 - opacity) * below)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
