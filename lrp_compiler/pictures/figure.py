"""A matplotlib figure outside of pyplot's state, and which colour maps suit relevance. Needs matplotlib."""

import io
import os
import warnings
from functools import cache, lru_cache
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError, InstallError, LrpWarning
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.installed import command

try:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, fontManager, get_font, weight_dict
    from matplotlib.patches import FancyBboxPatch
    from matplotlib.text import Text
    from matplotlib.textpath import TextPath
except ImportError as error:
    raise InstallError(f"Pictures need matplotlib: {command('plots')}.") from error

__all__ = [
    "COLOURS",
    "PHONE",
    "POINTS",
    "Colormap",
    "FancyBboxPatch",
    "FontProperties",
    "Picture",
    "TextPath",
    "colour_bar",
    "diverging",
    "families",
]

COLOURS = "RdBu_r"
"""Red above zero, blue below, white at it: ColorBrewer's, told apart by those who do not see red and green apart."""
PHONE, POINTS = 6.4, 11
"""Inches: in a figure of this width words of this size are still read where it is as wide as a phone."""
BAR = 0.1
"""Inches: how high the bar of colours is, roughly."""
SUITED = ("RdBu_r", "coolwarm", "BrBG_r", "PiYG_r", "berlin", "vanimo")
BOXES, REGULAR = "Last Resort", 400
"""matplotlib's own font that has a box for every letter; the weight of fonts that are neither light nor bold."""
MOST_LIGHTNESS = 15.0
"""By how much the lightness of the two arms may differ, of 100."""


class Picture(Figure):
    """A `matplotlib.figure.Figure` that shows itself in a notebook, and is saved whole or not at all."""

    def draw(self, renderer: Any) -> None:
        """Draw it; a `$` in a name is no formula, and a letter that the font lacks is taken from one that has it.

        Warns:
            LrpWarning: no font of this machine has it.
        """
        for axes in self.axes:  # so that the labels of ticks are there
            axes.get_xticklabels(), axes.get_yticklabels()
        for text in self.findobj(Text):
            text.set_parse_math(False)
            if not text.get_text().isascii():
                text.set_fontfamily(list(families(text.get_text())))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # it was said once
            super().draw(renderer)

    def save(self, path: str | os.PathLike[str], dpi: float = 100) -> None:
        """Write the picture; the path's ending says the format: .png, .svg, .pdf, ….

        Raises:
            InputError: matplotlib writes no such format.
            OSError: the folder is not there, or cannot be written to.
        """
        ending = os.path.splitext(path)[1][1:].lower()
        if ending not in self.canvas.get_supported_filetypes():
            raise InputError(f"Pictures are not written as {ending!r}: end the path with .png, .svg or .pdf.")
        with atomic_path(path) as temporary:
            self.savefig(temporary, dpi=dpi)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


@lru_cache(10_000)
def families(text: str) -> tuple[str, ...]:
    """The usual family of fonts, and behind it such as have the letters that it lacks.

    Warns:
        LrpWarning: no font of this machine has some of them.
    """
    usual = FontProperties().get_family()
    lacking = sorted({letter for letter in text if letter.isprintable()} - _letters(_path(usual)))
    found = {letter: _having(letter) for letter in lacking}
    if boxes := "".join(letter for letter, name in found.items() if name is None):
        warnings.warn(
            f"No font of this machine has “{boxes[:20]}”, which is drawn as boxes: install one that has, such as the "
            "Noto fonts, and remove matplotlib's list of fonts, fontlist-*.json in its cache.",
            LrpWarning,
            stacklevel=2,
        )
    return tuple(dict.fromkeys([*usual, *filter(None, found.values())]))


@lru_cache(10_000)
def _having(letter: str) -> str | None:
    """The family that has it, upright and neither light nor bold if there is such a one."""
    known = [font for font in fontManager.ttflist if BOXES not in font.name]
    order = sorted(known, key=lambda font: (font.style != "normal", abs(_weight(font.weight) - REGULAR)))
    return next((font.name for font in order if letter in _letters(font.fname)), None)


def _weight(weight: int | str) -> int:
    return weight_dict.get(weight, REGULAR) if isinstance(weight, str) else weight


def _path(family: list[str]) -> str:
    return str(fontManager.findfont(FontProperties(family=family)))


@cache
def _letters(path: str) -> frozenset[str]:
    """What a file of a font draws."""
    return frozenset(map(chr, get_font(path).get_charmap()))


def diverging(colours: str | Colormap) -> Colormap:
    """The colour map, if its two arms leave a neutral middle evenly: then it is the amount that the eye sees.

    Raises:
        InputError: there is no such map, or it does not diverge evenly (jet, viridis, seismic, …).
    """
    if isinstance(colours, str) and colours not in colormaps:
        raise InputError(f"matplotlib has no colour map {colours!r}: choose {', '.join(SUITED)}.")
    found = colormaps[colours] if isinstance(colours, str) else colours
    colour = np.asarray(found(np.linspace(0, 1, 201)))[:, :3]
    light = _lightness(colour)
    below, above = light[100::-1], light[100:]
    even = np.abs(below - above).max() <= MOST_LIGHTNESS
    steady = all((np.diff(arm) * np.sign(arm[-1] - arm[0])).min() > -0.5 for arm in (below, above))
    neutral = np.ptp(colour[100]) < 0.15 and np.abs(colour[0] - colour[-1]).max() > 0.3
    if not (even and steady and neutral):
        raise InputError(
            f"The colour map {found.name!r} does not diverge evenly from a neutral middle: choose {', '.join(SUITED)}."
        )
    return found


def colour_bar(
    figure: Figure, axes: Any, colours: Colormap, limits: list[float], size: float = 8, share: float = 0.5
) -> None:
    """One bar for all, of that share of their width: with numbers where all parts have the same scale."""
    one = len(set(limits)) == 1
    limit = limits[0] if one else 1.0
    mappable = ScalarMappable(Normalize(-limit, limit), colours)
    width = figure.get_figwidth() * share
    place: dict[str, Any] = {"location": "bottom", "shrink": share, "aspect": max(15, width / BAR)}
    bar = figure.colorbar(mappable, ax=axes, ticks=[-limit, 0, limit], **place)
    ends = [f"{-limit:.2g}", "0", f"{limit:.2g}"] if one else ["", "0", ""]
    words = ["speaks against the target", "", "speaks for it"]
    bar.ax.set_xticklabels([f"{end}\n{word}".strip() for end, word in zip(ends, words, strict=True)], fontsize=size)
    bar.outline.set_visible(False)


def _lightness(colour: np.ndarray) -> np.ndarray:
    """CIE 1976 L* of sRGB colours, `[..., 3]` in [0, 1]."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
