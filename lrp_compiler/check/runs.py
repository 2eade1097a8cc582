"""An explainer of either file, run on arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lrp_compiler.artefact import of_array
from lrp_compiler.artefact.calling import bound_inputs
from lrp_compiler.base.latents import KINDS
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.run import to_numpy
from lrp_compiler.explainer import Explainer
from lrp_compiler.passes.graph import Float64
from lrp_compiler.runtime import OnnxExplainer

from .random_inputs import EXTRAS

Result = tuple[list[np.ndarray], dict[str, np.ndarray]]


def run_flat(explainer: OnnxExplainer | Explainer, feeds: Mapping[str, np.ndarray]) -> Result:
    """Flat outputs and relevances, as numpy arrays."""
    if isinstance(explainer, OnnxExplainer):
        explanation = explainer(**call_of(explainer.about, feeds))
        output, coefficients = explanation.output, explanation.coefficients
        found = {**explanation.relevance, **{f"coefficient.{name}": one for name, one in coefficients.items()}}
        return list(output.values()) if isinstance(output, dict) else [output], found
    with torch.no_grad():
        results = explainer.artefact.running(*tensors_of(explainer, feeds).values())
    own = len(explainer.about.outputs)
    keys = [entry.key for entry in explainer.about.relevance]
    arrays = [to_numpy(result) for result in results]
    return arrays[:own], dict(zip(keys, arrays[own:], strict=True))


def call_of(about: Metadata, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays or tensors as a call takes them by name: masks and seeds by path."""
    inside = {latent.name for latent in about.latents}
    given = {name: value for name, value in feeds.items() if name not in inside}
    for argument, kind in KINDS.items():
        paths = {each.path: feeds[each.name] for each in about.latents if each.kind == kind and each.name in feeds}
        given |= {argument: paths} if paths else {}
    return given


def exact_results(reference: Explainer, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """All results of the reference in float64."""
    with torch.no_grad():
        results = Float64(reference.module).run(*tensors_of(reference, feeds).values())
    return [to_numpy(result if result.is_complex() else result.double()) for result in results]


def tensors_of(explainer: Explainer, feeds: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays as the explainer's module takes them, by name, in order."""
    return {spec.name: of_array(feeds[spec.name], spec.dtype) for spec in explainer.about.takes}


def fitting(about: Metadata, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a call of the explainer makes of these inputs, the same for all that are asked; raises `InputError` where
    they do not fit."""
    dtypes = {spec.name: spec.dtype for spec in about.takes}
    tensors = {name: of_array(np.asarray(array), dtypes.get(name, "")) for name, array in given.items()}
    choices = {spec.name: tensors.pop(spec.name) for spec in about.seed_inputs}
    extras = {name: choices.get(name) for name in EXTRAS}
    inside = {latent.name: choices[latent.name] for latent in about.latents}
    bound, _ = bound_inputs(about, (), tensors, extras, check_nan=False, inside=inside)
    return {name: to_numpy(tensor) for name, tensor in zip(dtypes, bound, strict=True)}
