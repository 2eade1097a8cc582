"""What an explainer returns, in torch and in onnxruntime alike. Torch-free.

explanation = explainer(x)
explanation.relevance["x"]                               # shaped like x
explanation.explained(labels)                            # which class, its logit, what the inputs got of it
explanation.heatmap(labels=labels).save("heatmap.png")   # needs matplotlib
explanation.tokens(tokenizer).html()
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.results import Array, Results
from lrp_compiler.base.run import number
from lrp_compiler.base.validate import dtype_name

if TYPE_CHECKING:
    from lrp_compiler.pictures.figure import Picture
    from lrp_compiler.pictures.tokens import Tokens

SHOWN_ROWS = 8
"""How many rows of a batch a notebook shows."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Results[Array]):
    """What an explainer returns: torch tensors, or numpy arrays where it runs in onnxruntime.

    Pictures sum relevance up and draw it; all of them state composite, target, logit and Σ relevance.

    See `Results` for `output`, `relevance`, `run`, `explained` and `of`.
    """

    @boundary("draw the heatmap")
    def heatmap(self, image: Any = None, **options: Any) -> Picture:
        """Relevance of pixels: see `lrp_compiler.pictures.heatmap.heatmap`, which takes the same options."""
        from lrp_compiler.pictures.heatmap import heatmap

        return heatmap(self, image, **options)

    @boundary("show the tokens")
    def tokens(self, tokenizer: Any, **options: Any) -> Tokens:
        """(token, relevance) pairs: see `lrp_compiler.pictures.tokens.tokens`, which takes the same options."""
        from lrp_compiler.pictures.tokens import tokens

        return tokens(self, tokenizer, **options)

    @boundary("draw the spectrogram")
    def spectrogram(self, **options: Any) -> Picture:
        """Relevance of sound: see `lrp_compiler.pictures.spectrogram.spectrogram`, which takes the same options."""
        from lrp_compiler.pictures.spectrogram import spectrogram

        return spectrogram(self, **options)

    @boundary("draw the layers")
    def layers(self, relevance: Mapping[str, Any] | None = None, **options: Any) -> Picture:
        """Σ relevance layer by layer: see `lrp_compiler.pictures.layers.layers`, which takes the same options."""
        from lrp_compiler.pictures.layers import layers

        return layers(self, relevance, **options)

    @boundary("draw the heads")
    def heads(self, relevance: Mapping[str, Any] | None = None, **options: Any) -> Picture:
        """A map of heads and layers: see `lrp_compiler.pictures.layers.heads`, which takes the same options."""
        from lrp_compiler.pictures.layers import heads

        return heads(self, relevance, **options)

    def __repr__(self) -> str:
        """Shapes, composite and target; the arrays are in `output` and `relevance`."""
        arrays: Mapping[str, Any] = self.relevance
        shapes = [f"{name}: {dtype_name(values)}{list(values.shape)}" for name, values in arrays.items()]
        return f"Explanation(relevance of {', '.join(shapes)}; {self.run.heading})"

    def _repr_html_(self) -> str:
        """For notebooks: a heatmap where the input is an image and matplotlib is there, and what was explained."""
        return self._heatmap_html() + self._table_html()

    def _heatmap_html(self) -> str:
        try:
            picture = self.heatmap(rows=range(min(SHOWN_ROWS, len(self.run.classes()[0]))))
        except LrpError:  # no matplotlib, or no image
            return ""
        content = io.BytesIO()
        picture.savefig(content, format="png", dpi=70)
        data = base64.b64encode(content.getvalue()).decode()
        return f'<img alt="Relevance of pixels" style="max-width:100%" src="data:image/png;base64,{data}">'

    def _table_html(self) -> str:
        cases = self.explained()
        names = list(cases[0].relevance) if cases else []
        head = ["row", "target", self.run.about.score, *(f"Σ relevance of {name}" for name in names)]
        rows = [
            [str(case.row), case.name, (case.probability or "–") if case.logit is None else number(case.logit)]
            + [number(case.relevance[name]) for name in names]
            for case in cases[: SHOWN_ROWS * (self.run.several or 1)]
        ]
        body = "".join(map(_table_row, rows))
        more = f"<p>… and {len(cases) - len(rows)} more</p>" if len(cases) > len(rows) else ""
        return f"<p>{html.escape(self.run.heading)}</p><table>{_table_row(head, 'th')}{body}</table>{more}"


def _table_row(cells: Sequence[str], tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
