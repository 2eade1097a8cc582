"""`ai.onnx.ml`: what pipelines do to columns before, between and behind their models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.errors import FormatError

from ..registry import Known, no_operator, onnx_op
from ..sizes import Sizes

ML = "ai.onnx.ml"
Attributes = dict[str, Any]


def as_floats(x: Tensor) -> Tensor:
    """In float32, which all of the domain returns; float64 is kept while something is worked out in it."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


@onnx_op("Scaler", domain=ML)
def scaler(x: Tensor, *, offset: list[float] | None = None, scale: list[float] | None = None) -> Tensor:
    """`(x − offset) · scale`, of each column."""
    moved = as_floats(x)
    if offset and any(offset):
        moved = moved - torch.tensor(offset, dtype=moved.dtype)
    if scale and any(number != 1 for number in scale):
        moved = moved * torch.tensor(scale, dtype=moved.dtype)
    return moved.to(torch.float32)


def _largest(x: Tensor) -> Tensor:
    size = torch.amax(x, -1, keepdim=True)
    return torch.where(size == 0, torch.ones_like(size), size)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "MAX": _largest,
    "L1": lambda x: x.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny),
    "L2": lambda x: x.square().sum(-1, keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny),
}
"""Of rows; not 0."""


@onnx_op("Normalizer", domain=ML)
def normalizer(x: Tensor, *, norm: str = "MAX") -> Tensor:
    """Each row over its norm; one whose norm is 0 stays. `MAX` is the largest value, not the largest amount."""
    if norm not in NORMS:
        raise FormatError(f"A Normalizer has the norm {norm!r}: there are {', '.join(NORMS)}.")
    floats = as_floats(x).to(torch.float32)
    return floats / NORMS[norm](floats)


@onnx_op("Imputer", domain=ML)
def imputer(
    x: Tensor,
    *,
    imputed_value_floats: list[float] | None = None,
    imputed_value_int64s: list[int] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Tensor:
    """What is missing (NaN, or a value that stands for it) is replaced, of each column by its own value."""
    floats = x.is_floating_point()
    lacking: float = replaced_value_float if floats else replaced_value_int64
    values = imputed_value_floats if floats else imputed_value_int64s
    if not values:
        raise FormatError(f"An Imputer of {'floats' if floats else 'whole numbers'} holds no values of that kind.")
    missing = torch.isnan(x) if lacking != lacking else x == lacking
    return torch.where(missing, torch.tensor(values, dtype=x.dtype), x)


@onnx_op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(x: Tensor, indices: Known) -> Tensor:
    """Columns by number; those of a single row make a row again."""
    rows = x.unsqueeze(0) if x.dim() == 1 else x
    places = indices.tensor() if isinstance(indices, Sizes) else indices
    return rows.index_select(-1, places.reshape(-1))


@onnx_op("Binarizer", domain=ML)
def binarizer(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    """1 above the threshold, and else 0: a hard decision, which hands on no relevance."""
    return (x > threshold).to(x.dtype)


@onnx_op("FeatureVectorizer", domain=ML)
def feature_vectorizer(*inputs: Tensor, inputdimensions: list[int] | None = None) -> Tensor:
    """Columns of several tables side by side, of each so many as stated: cut off, or filled up with 0."""
    tables = [as_floats(x.unsqueeze(0) if x.dim() == 1 else x.flatten(1)).to(torch.float32) for x in inputs]
    widths = inputdimensions or [table.shape[1] for table in tables]
    parts = [
        table[:, :width] if table.shape[1] >= width else torch.nn.functional.pad(table, [0, width - table.shape[1]])
        for table, width in zip(tables, widths, strict=True)
    ]
    return torch.cat(parts, 1)


@onnx_op("OneHotEncoder", domain=ML)
def one_hot_encoder(
    x: Tensor, *, cats_int64s: list[int] | None = None, cats_strings: list[str] | None = None, zeros: int = 1
) -> Tensor:
    """1 in the column of its category; `x`, of floats, is cut to a whole number first."""
    whole = x.to(torch.int64) if x.is_floating_point() else x
    return (whole.unsqueeze(-1) == torch.tensor(cats_int64s or [], dtype=whole.dtype)).to(torch.float32)


@onnx_op("LabelEncoder", domain=ML)
def label_encoder(
    x: Tensor,
    *,
    keys_int64s: list[int] | None = None,
    keys_floats: list[float] | None = None,
    keys_tensor: Tensor | None = None,
    values_int64s: list[int] | None = None,
    values_floats: list[float] | None = None,
    values_tensor: Tensor | None = None,
    default_int64: int = -1,
    default_float: float = -0.0,
    default_tensor: Tensor | None = None,
    default_string: str = "",
    keys_strings: list[str] | None = None,
    values_strings: list[str] | None = None,
    classes_strings: list[str] | None = None,
    opset: int = 1,
) -> Tensor:
    """The value of the key that an element is, or the default; nan is no key of its own until version 4."""
    keys = keys_tensor if keys_tensor is not None else torch.tensor(keys_int64s or keys_floats or [], dtype=x.dtype)
    if values_tensor is not None:
        values, other = values_tensor, default_tensor
    elif values_floats:
        values, other = torch.tensor(values_floats), torch.tensor(default_float)
    else:
        values, other = torch.tensor(values_int64s or [], dtype=torch.int64), torch.tensor(default_int64)
    one = x.unsqueeze(-1)
    same = one == keys
    if x.is_floating_point() and opset >= 4:
        same = same | (torch.isnan(one) & torch.isnan(keys))
    found = torch.sum(same.to(values.dtype) * values, -1)
    default = values.new_zeros(()) if other is None else other.reshape(()).to(values.dtype)
    return torch.where(same.any(-1), found, default)


TEXT = "handles text, which carries no relevance: give the model the numbers that are made of it"


def holds_text(attributes: Attributes) -> bool:
    """Whether an operator's categories, keys or values are text."""
    return any(attributes.get(name) for name in ("cats_strings", "keys_strings", "values_strings", "classes_strings"))


no_operator(TEXT, "OneHotEncoder", "LabelEncoder", domain=ML, when=holds_text)
no_operator(TEXT, "CategoryMapper", domain=ML)
no_operator(
    "takes a map from keys to values, and relevance is of tensors alone: give the model the tensor that is made of it",
    "CastMap",
    "DictVectorizer",
    domain=ML,
)
no_operator(
    "makes a map of a tensor in the middle of a graph, and relevance is of tensors alone: cut the graph in front of it",
    "ZipMap",
    domain=ML,
)
no_operator(
    "asks one threshold after the other, through which there is no share of a value to hand back: LRP has no rule for "
    "trees, and TreeSHAP explains them exactly",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    domain=ML,
)
