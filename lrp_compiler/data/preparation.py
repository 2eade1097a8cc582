"""How a row's columns become an explainer's inputs, as plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.seal import file_digest
from lrp_compiler.base.validate import check_option, whole_number

Numbers = float | Sequence[float]


@dataclass(frozen=True)
class Preparation:
    """How rows become inputs.

    Args:
        columns: input → column, of those whose names differ. `target`, `position`, `seed`, `weights` and `against` are
            inputs, too, if the explainer was compiled to take them.
        target: the class that is explained in every row, instead of a column's.
        mean, std: of pictures, subtracted from the colours, which are in [0, 1], and what they are divided by: one
            number, or one for each channel; of arrays of uint8 as well, if they are given.
        resize: of pictures: "crop" takes the middle; "stretch" takes all, at the cost of its proportions.
        crop: of pictures: share of the largest area of the input's proportions that is taken, with "crop".
        size: of pictures: height and width, if the explainer leaves them open.
        tokenizer: of texts: the model's `tokenizer.json`.
        max_length: of texts: at how many tokens one is cut; by default where the tokenizer cuts, or at 512.
        reference: what each row is compared with, where relevance is of differences and no columns `reference.<input>`
            say: a number, "blur" for pictures, or an array that spreads to `[rows, …]`; a dict of such by input.
            Zeros by default, but of ids.

    Raises:
        InputError: an option is of a wrong kind.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    target: int | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    resize: str = "crop"
    crop: float = 1.0
    size: int | None = None
    tokenizer: str | os.PathLike[str] | None = None
    max_length: int | None = None
    reference: Any = None

    def __post_init__(self) -> None:
        fits = isinstance(self.columns, Mapping) and all(isinstance(one, str) for one in self.columns.values())
        check_option("columns", self.columns, fits, "a dict, input → column")
        for name in ("target", "size", "max_length"):
            given = getattr(self, name)
            least = None if name == "target" else 1
            number = whole_number(given)
            fits = given is None or (number is not None and (least is None or number >= least))
            check_option(name, given, fits, "a whole number" + " from 1 up" * (least == 1))
        fits = self.tokenizer is None or isinstance(self.tokenizer, str | os.PathLike)
        check_option("tokenizer", self.tokenizer, fits, "the path of a tokenizer.json")
        if self.tokenizer is not None and not os.path.isfile(self.tokenizer):
            raise FileNotFoundError(f"There is no file {os.fspath(self.tokenizer)}.")
        if self.max_length is not None and self.tokenizer is None:
            raise InputError("max_length is of texts that are cut into tokens: give their tokenizer, too.")

    def to_dict(self) -> dict[str, Any]:
        """As plain data, of the tokenizer its content's SHA-256: equal where equal inputs are made of equal rows."""
        plain = asdict(replace(self, reference=None))
        plain["columns"] = dict(sorted(self.columns.items()))
        for name in ("mean", "std"):
            value = plain[name]
            plain[name] = value if value is None or isinstance(value, int | float) else [float(one) for one in value]
        plain["reference"] = _plain(self.reference)
        plain["tokenizer"] = None if self.tokenizer is None else file_digest(self.tokenizer)
        return plain


def _plain(reference: Any) -> Any:
    """Of an array its content's SHA-256."""
    if isinstance(reference, Mapping):
        return {name: _plain(value) for name, value in sorted(reference.items())}
    if reference is None or isinstance(reference, str | int | float):
        return reference
    array = np.ascontiguousarray(reference)
    return {"sha256": sha256(array.tobytes()).hexdigest(), "shape": list(array.shape), "dtype": str(array.dtype)}
