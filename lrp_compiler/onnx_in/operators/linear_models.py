"""`ai.onnx.ml`: linear models, support vector machines among them where their kernel is linear.

Scores of one column for two classes become two columns, `[1 − s, s]`, and where they are made probabilities
`[σ(−s), σ(s)]`: the description of the domain leaves that open, this is what onnxruntime does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrp_compiler.base.errors import FormatError

from ..registry import no_operator, onnx_op
from .pipelines import ML, Attributes, as_floats

LITTLE = 1e-7
"""Scores of which the softmax takes no notice that leaves zeros what they are."""
SHAPE, PI = 0.147, 3.14159
"""Of the approximation of the inverse error function, in onnxruntime's digits."""


def _softmax_of_others(scores: Tensor) -> Tensor:
    """A softmax in which what is 0 stays so."""
    largest = torch.amax(scores, -1, keepdim=True)
    powers = torch.exp(scores - largest)
    counted = torch.abs(scores) > LITTLE
    return torch.where(counted, powers, scores * torch.exp(-largest)) / torch.sum(
        torch.where(counted, powers, torch.zeros_like(powers)), -1, keepdim=True
    )


def _probit(scores: Tensor) -> Tensor:
    """`√2 · erf⁻¹(2p − 1)`, approximately (S. Winitzki, 2008), as onnxruntime does it; nan outside of 0 to 1."""
    x = 2 * scores - 1
    log = torch.log((1 - x) * (1 + x))
    half = 2 / (PI * SHAPE) + log / 2
    return 2**0.5 * torch.sign(x) * torch.sqrt(torch.sqrt(half * half - log / SHAPE) - half)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "NONE": lambda scores: scores,
    "SOFTMAX": lambda scores: torch.softmax(scores, -1),
    "LOGISTIC": torch.sigmoid,
    "SOFTMAX_ZERO": _softmax_of_others,
    "PROBIT": _probit,
}
"""What may be done to scores."""


def _transformed(scores: Tensor, how: str) -> Tensor:
    if how not in TRANSFORMS:
        raise FormatError(f"A linear model has the post_transform {how!r}: there are {', '.join(TRANSFORMS)}.")
    # Of a single score nothing but the probit is taken.
    return scores if scores.shape[-1] == 1 and how != "PROBIT" else TRANSFORMS[how](scores)


def _linear(x: Tensor, coefficients: list[float], intercepts: list[float] | None) -> Tensor:
    floats = as_floats(x).to(torch.float32)
    floats = floats.unsqueeze(0) if floats.dim() == 1 else floats
    width = int(floats.shape[-1])
    if not width or len(coefficients) % width:
        raise FormatError(f"A linear model of {len(coefficients)} coefficients does not fit {width} columns.")
    weight = torch.tensor([coefficients[place : place + width] for place in range(0, len(coefficients), width)])
    bias = torch.tensor(intercepts) if intercepts and any(intercepts) else None
    return F.linear(floats, weight, bias)


def _two_columns(score: Tensor, how: str, opposite: Tensor) -> Tensor:
    """A score for one of two classes as one for each.

    Args:
        score: `[rows, 1]`.
        how: what is done to scores.
        opposite: the score of the other class, where it is not made a probability.
    """
    if how == "LOGISTIC":
        return torch.sigmoid(torch.cat([-score, score], -1))
    both = torch.cat([opposite, score], -1)
    return _probit(both) if how == "PROBIT" else both


def _labels(scores: Tensor, classes: list[int] | None) -> Tensor | None:
    """The class of the largest score; None where classes are text."""
    places = torch.argmax(scores, -1)
    return torch.tensor(classes)[places] if classes else None


@onnx_op("LinearClassifier", domain=ML)
def linear_classifier(
    x: Tensor,
    *,
    coefficients: list[float],
    intercepts: list[float] | None = None,
    classlabels_ints: list[int] | None = None,
    classlabels_strings: list[str] | None = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Tensor | None, Tensor]:
    """`X Wᵀ + b`, and the class of the largest."""
    scores = _linear(x, coefficients, intercepts)
    if scores.shape[-1] > 1:
        return _labels(scores, classlabels_ints), _transformed(scores, post_transform)
    both = _two_columns(scores, post_transform, 1 - scores)
    return _labels(torch.cat([-scores, scores], -1), classlabels_ints), both


@onnx_op("LinearRegressor", domain=ML)
def linear_regressor(
    x: Tensor,
    *,
    coefficients: list[float],
    intercepts: list[float] | None = None,
    targets: int = 1,
    post_transform: str = "NONE",
) -> Tensor:
    """`X Wᵀ + b`."""
    return _transformed(_linear(x, coefficients, intercepts), post_transform)


@onnx_op("SVMRegressor", domain=ML)
def svm_regressor(
    x: Tensor,
    *,
    coefficients: list[float],
    rho: list[float],
    support_vectors: list[float] | None = None,
    n_supports: int = 0,
    one_class: int = 0,
    kernel_type: str = "LINEAR",
    kernel_params: list[float] | None = None,
    post_transform: str = "NONE",
) -> Tensor:
    """`Σᵢ cᵢ (x · vᵢ) + ρ`: a linear map, the sum of the support vectors being one vector of weights."""
    weights = _of_vectors(torch.tensor([coefficients]), support_vectors or []) if n_supports else coefficients
    score = _linear(x, weights, rho[:1])
    if one_class:
        return torch.where(score > 0, torch.ones_like(score), -torch.ones_like(score))
    return _transformed(score, post_transform)


@onnx_op("SVMClassifier", domain=ML)
def svm_classifier(
    x: Tensor,
    *,
    coefficients: list[float],
    rho: list[float],
    support_vectors: list[float] | None = None,
    vectors_per_class: list[int] | None = None,
    classlabels_ints: list[int] | None = None,
    classlabels_strings: list[str] | None = None,
    kernel_type: str = "LINEAR",
    kernel_params: list[float] | None = None,
    prob_a: list[float] | None = None,
    prob_b: list[float] | None = None,
    post_transform: str = "NONE",
) -> tuple[Tensor | None, Tensor]:
    """A score for each class, or, with support vectors, for each pair of classes; and the class that wins."""
    if not vectors_per_class:
        count = len(classlabels_ints or classlabels_strings or [])
        scores = _linear(x, coefficients, rho[:1] * count)
        raw = _of_two(scores, 0.5 if min(coefficients) >= 0 else 0.0) if count == 2 else scores
        return _labels(raw, classlabels_ints), _transformed(scores, post_transform)
    count = len(vectors_per_class)
    scores = _linear(x, _of_pairs(coefficients, vectors_per_class, support_vectors or []), rho)
    labels = _labels(_votes(scores, count), classlabels_ints)
    if count > 2:
        return labels, _transformed(scores, post_transform)
    return labels, _two_columns(scores, post_transform, -scores if post_transform == "NONE" else 1 - scores)


def _of_two(scores: Tensor, threshold: float) -> Tensor:
    """Of two classes onnxruntime takes the second where the larger score is above the threshold, whosever it is."""
    largest = torch.amax(scores, -1, keepdim=True) - threshold
    return torch.cat([-largest, largest], -1)


def _of_vectors(coefficients: Tensor, vectors: list[float]) -> list[float]:
    """Weights of the features from those of the support vectors, `[scores, vectors]`."""
    rows = torch.tensor(vectors, dtype=torch.float64).reshape(coefficients.shape[-1], -1)
    found: list[float] = (coefficients.double() @ rows).reshape(-1).tolist()
    return found


def _of_pairs(coefficients: list[float], counts: list[int], vectors: list[float]) -> list[float]:
    """Weights of the features for each pair of classes i < j: of class i's vectors row j − 1, of class j's row i."""
    classes, total = len(counts), sum(counts)
    rows = [coefficients[row * total : (row + 1) * total] for row in range(classes - 1)]
    start = [sum(counts[:place]) for place in range(classes)]
    pairs: list[list[float]] = []
    for i in range(classes):
        for j in range(i + 1, classes):
            pair = [0.0] * total
            for own, row in ((i, j - 1), (j, i)):
                part = slice(start[own], start[own] + counts[own])
                pair[part] = rows[row][part]
            pairs.append(pair)
    return _of_vectors(torch.tensor(pairs), vectors)


def _votes(scores: Tensor, classes: int) -> Tensor:
    """How many pairs each class wins."""
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    first = torch.tensor([[pair[0] == one for one in range(classes)] for pair in pairs], dtype=scores.dtype)
    second = torch.tensor([[pair[1] == one for one in range(classes)] for pair in pairs], dtype=scores.dtype)
    won = (scores > 0).to(scores.dtype)
    return torch.matmul(won, first) + torch.matmul(1 - won, second)


def _bends(attributes: Attributes) -> bool:
    return bool(attributes.get("kernel_type", b"LINEAR") != b"LINEAR")


def _couples(attributes: Attributes) -> bool:
    return bool(attributes.get("prob_a"))


def _machines(reason: str, when: Callable[[dict[str, Any]], bool]) -> None:
    no_operator(reason, "SVMClassifier", "SVMRegressor", domain=ML, when=when)


_machines(
    "has a kernel that is not linear, whose values are of pairs of inputs: no share of them is one feature's", _bends
)
_machines(
    "makes probabilities of pairs of classes by a search: let the converter return the decision function instead "
    "(skl2onnx: options={'raw_scores': True})",
    _couples,
)
