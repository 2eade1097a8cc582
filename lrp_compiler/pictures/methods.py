"""The pictures that an explanation draws of itself, with all their options, so that editors know them.

What each option means stands with the function that draws: `heatmap.py`, `image.py`, `tokens.py`, `spectrogram.py` and
`layers.py`, which are imported when they are first used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.results import Array, Results
from lrp_compiler.base.run import Labels

if TYPE_CHECKING:
    from .figure import Colormap, Picture
    from .image import Image
    from .tokens import Tokens


@dataclass(frozen=True, eq=False, repr=False)
class Drawn(Results[Array]):
    """Pictures sum relevance up and draw it; all of them state composite, target, logit and Σ relevance."""

    @boundary("draw the heatmap")
    def heatmap(
        self,
        image: Any = None,
        *,
        input: str | None = None,
        aggregate: bool = False,
        labels: Labels | None = None,
        style: str = "overlay",
        rows: Iterable[int] | int | None = None,
        percentile: float = 99.5,
        limit: float | None = None,
        smooth: float = 0.0,
        colours: str | Colormap = "RdBu_r",
        columns: int | None = None,
        books: Any = None,
        title: str = "",
    ) -> Picture:
        """Relevance of pixels, drawn with matplotlib: `lrp_compiler.pictures.heatmap.heatmap` says what each means."""
        from lrp_compiler.pictures.heatmap import heatmap

        return heatmap(
            self,
            image,
            input=input,
            aggregate=aggregate,
            labels=labels,
            style=style,
            rows=rows,
            percentile=percentile,
            limit=limit,
            smooth=smooth,
            colours=colours,
            columns=columns,
            books=books,
            title=title,
        )

    @boundary("draw the image")
    def image(
        self,
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
        """Relevance of one row's pixels as a PNG, without matplotlib: see `lrp_compiler.pictures.image.image`."""
        from lrp_compiler.pictures.image import image as image_of

        return image_of(
            self,
            image,
            input=input,
            aggregate=aggregate,
            labels=labels,
            row=row,
            target=target,
            percentile=percentile,
            limit=limit,
            smooth=smooth,
        )

    @boundary("show the tokens")
    def tokens(
        self,
        tokenizer: Any,
        *,
        input: str | None = None,
        ids: Any = None,
        words: bool = False,
        special: bool = True,
        labels: Labels | None = None,
        rows: Iterable[int] | int | None = None,
        percentile: float = 100.0,
        limit: float | None = None,
    ) -> Tokens:
        """(token, relevance) pairs: `lrp_compiler.pictures.tokens.tokens` says what each means."""
        from lrp_compiler.pictures.tokens import tokens

        return tokens(
            self,
            tokenizer,
            input=input,
            ids=ids,
            words=words,
            special=special,
            labels=labels,
            rows=rows,
            percentile=percentile,
            limit=limit,
        )

    @boundary("draw the spectrogram")
    def spectrogram(
        self,
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
        colours: str | Colormap = "RdBu_r",
        columns: int | None = None,
        title: str = "",
    ) -> Picture:
        """Relevance of sound: `lrp_compiler.pictures.spectrogram.spectrogram` says what each means."""
        from lrp_compiler.pictures.spectrogram import spectrogram

        return spectrogram(
            self,
            input=input,
            labels=labels,
            rows=rows,
            rate=rate,
            seconds=seconds,
            time_axis=time_axis,
            percentile=percentile,
            limit=limit,
            smooth=smooth,
            colours=colours,
            columns=columns,
            title=title,
        )

    @boundary("draw the layers")
    def layers(
        self,
        relevance: Mapping[str, Any] | None = None,
        *,
        row: int = 0,
        target: int = 0,
        labels: Labels | None = None,
        parts: bool = False,
        colours: str | Colormap = "RdBu_r",
        title: str = "",
    ) -> Picture:
        """Σ relevance layer by layer: `lrp_compiler.pictures.layers.layers` says what each means."""
        from lrp_compiler.pictures.layers import layers

        return layers(self, relevance, row=row, target=target, labels=labels, parts=parts, colours=colours, title=title)

    @boundary("draw the heads")
    def heads(
        self,
        relevance: Mapping[str, Any] | None = None,
        *,
        axis: int = 0,
        count: int | None = None,
        row: int = 0,
        target: int = 0,
        labels: Labels | None = None,
        percentile: float = 100.0,
        limit: float | None = None,
        colours: str | Colormap = "RdBu_r",
        title: str = "",
    ) -> Picture:
        """A map of heads and layers: `lrp_compiler.pictures.layers.heads` says what each means."""
        from lrp_compiler.pictures.layers import heads

        return heads(
            self,
            relevance,
            axis=axis,
            count=count,
            row=row,
            target=target,
            labels=labels,
            percentile=percentile,
            limit=limit,
            colours=colours,
            title=title,
        )
