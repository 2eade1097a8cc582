"""What an explainer returns, in torch and in onnxruntime alike. Torch-free.

explanation = explainer(x)
explanation.relevance["x"]                               # shaped like x
explanation.explained(labels)                            # which class, its logit, what the inputs got of it
explanation.heatmap(labels=labels).save("heatmap.png")   # needs matplotlib
explanation.image().save("image.png")                    # needs nothing
explanation.tokens(tokenizer).html()
explanation.save("explanation.npz")                      # Explanation.load
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrp_compiler.base import stored
from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, InstallError, LrpError
from lrp_compiler.base.results import Array
from lrp_compiler.base.run import number
from lrp_compiler.base.validate import check_option, dtype_name
from lrp_compiler.formats import EXPLANATIONS, NPZ, PARQUET, ends_in
from lrp_compiler.pictures.methods import Drawn

SHOWN_ROWS = 8
"""How many rows of a batch a notebook shows."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Drawn[Array]):
    """What an explainer returns: torch tensors, or numpy arrays where it runs in onnxruntime.

    See `Results` for `output`, `relevance`, `run`, `explained` and `of`, and `Drawn` for the pictures: `heatmap`,
    `image`, `tokens`, `spectrogram`, `layers` and `heads`.
    """

    @boundary("make arrays of the explanation")
    def to_numpy(self) -> Explanation[np.ndarray]:
        """The same in numpy arrays, as onnxruntime would have given it: several outputs by name, no bfloat16."""
        return Explanation(**stored.fields_of(stored.arrays_of(self), self.run.about, self.run.conditions))

    @boundary("save the explanation")
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it, inputs and outputs included: what `Explanation.load` reads. The file is whole or not there.

        Args:
            path: ending in `.npz`, or in `.parquet`: a row for each row of the batch, arrays as Arrow's tensors (needs
                pyarrow, by the extra `data`). Arrays are called as in the explainer's ONNX file: `output`,
                `relevance.x`.

        Raises:
            InputError: another ending; or an array has no row for each of the batch, which Parquet needs.
            OSError: the folder is not there, or cannot be written to.
        """
        _format_of(path).write(self, path)

    @classmethod
    @boundary("load the explanation")
    def load(cls, path: str | os.PathLike[str]) -> Explanation[np.ndarray]:
        """Read what `save` wrote, as `to_numpy` gives it. No code in the file is run.

        Raises:
            FileNotFoundError: there is no such file.
            FormatError: it holds no explanation, is damaged, or was written by a newer lrp_compiler.
            InputError: the path ends neither in `.npz` nor in `.parquet`.
        """
        return Explanation(**_format_of(path).read(path))

    def __repr__(self) -> str:
        """Shapes, composite and target; the arrays are in `output` and `relevance`."""
        arrays: Mapping[str, Any] = self.relevance
        shapes = [f"{name}: {dtype_name(values)}{list(values.shape)}" for name, values in arrays.items()]
        return f"Explanation(relevance of {', '.join(shapes)}; {self.run.heading})"

    def _repr_html_(self) -> str:
        """For notebooks: a heatmap where the input is an image and matplotlib is there, and what was explained."""
        return self._heatmap_html() + self._table_html()

    def _heatmap_html(self) -> str:
        rows = range(min(SHOWN_ROWS, len(self.run.classes()[0])))
        try:
            return "".join(map(_shown, self._drawn(rows)))
        except LrpError:  # no image
            return ""

    def _drawn(self, rows: Iterable[int]) -> list[Any]:
        try:
            return [self.heatmap(rows=rows)]
        except InstallError:  # no matplotlib
            return [self.image(row=row) for row in rows]

    def _table_html(self) -> str:
        cases = self.explained()
        names = list(cases[0].relevance) if cases else []
        head = ["row", "target", cases[0].kind if cases else "logit", *(f"Σ relevance of {name}" for name in names)]
        rows = [
            [
                str(case.row),
                case.name,
                (case.probability.rpartition(" ")[2] or "–") if case.logit is None else number(case.logit),
            ]
            + [number(case.relevance[name]) for name in names]
            for case in cases[: SHOWN_ROWS * (self.run.several or 1)]
        ]
        body = "".join(map(_table_row, rows))
        more = f"<p>… and {len(cases) - len(rows)} more</p>" if len(cases) > len(rows) else ""
        return f"<p>{html.escape(self.run.heading)}</p><table>{_table_row(head, 'th')}{body}</table>{more}"


def _table_row(cells: Sequence[str], tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _shown(picture: Any) -> str:
    """As an element of a page."""
    if hasattr(picture, "savefig"):
        content = io.BytesIO()
        picture.savefig(content, format="png", dpi=70)
        png = content.getvalue()
    else:
        png = picture.png()
    data = base64.b64encode(png).decode()
    return f'<img alt="Relevance of pixels" style="max-width:100%" src="data:image/png;base64,{data}">'


def _format_of(path: str | os.PathLike[str]) -> Any:
    """The module that writes and reads such a file, by its ending."""
    check_option("path", path, isinstance(path, str | os.PathLike), "the path of a file")
    if ends_in(path, NPZ):
        return stored
    if not ends_in(path, PARQUET):
        raise InputError(f"Explanations are kept as {' or '.join(EXPLANATIONS)}, not as {os.path.basename(path)!r}.")
    from lrp_compiler.data import explanations

    return explanations
