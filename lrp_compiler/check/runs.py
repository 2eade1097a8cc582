"""An explainer of either file, run on arrays by name. Torch-free of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrp_compiler.base.latents import KINDS
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.specs import ABSORBED, AGGREGATE, COEFFICIENT, SUM
from lrp_compiler.runtime import OnnxExplainer

from .verification import Result


def run_flat(explainer: Any, feeds: Mapping[str, np.ndarray]) -> Result:
    """Flat outputs and relevances, as numpy arrays."""
    if not isinstance(explainer, OnnxExplainer):
        from .in_torch import run_in_torch

        return run_in_torch(explainer, feeds)
    explanation = explainer(**call_of(explainer.about, feeds))
    output, coefficients = explanation.output, explanation.coefficients
    found = {**explanation.relevance, **{f"{COEFFICIENT}{name}": one for name, one in coefficients.items()}}
    found |= {ABSORBED if name == ABSORBED else f"{SUM}.{name}": one for name, one in explanation.sums.items()}
    found |= {f"{AGGREGATE}.{name}": one for name, one in explanation.aggregate.items()}
    return list(output.values()) if isinstance(output, dict) else [output], found


def call_of(about: Metadata, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays or tensors as a call takes them by name: masks and seeds by path."""
    inside = {latent.name for latent in about.latents}
    given = {name: value for name, value in feeds.items() if name not in inside}
    for argument, kind in KINDS.items():
        paths = {each.path: feeds[each.name] for each in about.latents if each.kind == kind and each.name in feeds}
        given |= {argument: paths} if paths else {}
    return given


def fitting(explainer: Any, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a call of the explainer makes of these inputs, the same for all that are asked; raises `InputError` where
    they do not fit."""
    if isinstance(explainer, OnnxExplainer):
        return explainer.feeds(**call_of(explainer.about, given))
    from .in_torch import fitting_in_torch

    return fitting_in_torch(explainer.about, given)
