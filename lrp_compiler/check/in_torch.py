"""An explainer run in torch on arrays by name, in its own precision and in float64. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from lrp_compiler.artefact import of_array
from lrp_compiler.artefact.calling import bound_inputs
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.run import to_numpy
from lrp_compiler.base.validate import EXTRAS
from lrp_compiler.explainer import Explainer
from lrp_compiler.passes.graph import Float64

from .verification import Result


def run_in_torch(explainer: Explainer, feeds: Mapping[str, np.ndarray]) -> Result:
    """Flat outputs and relevances, as numpy arrays."""
    with torch.no_grad():
        results = explainer.artefact.running(*tensors_of(explainer, feeds).values())
    own = len(explainer.about.outputs)
    keys = [entry.key for entry in explainer.about.relevance]
    arrays = [to_numpy(result) for result in results]
    return arrays[:own], dict(zip(keys, arrays[own:], strict=True))


def exact_results(reference: Explainer, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """All results of the reference in float64."""
    with torch.no_grad():
        results = Float64(reference.module).run(*tensors_of(reference, feeds).values())
    return [to_numpy(result if result.is_complex() else result.double()) for result in results]


def tensors_of(explainer: Explainer, feeds: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arrays as the explainer's module takes them, by name, in order."""
    return {spec.name: of_array(feeds[spec.name], spec.dtype) for spec in explainer.about.takes}


def fitting_in_torch(about: Metadata, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a call in torch makes of these inputs; raises `InputError` where they do not fit."""
    dtypes = {spec.name: spec.dtype for spec in about.takes}
    tensors = {name: of_array(np.asarray(array), dtypes.get(name, "")) for name, array in given.items()}
    choices = {spec.name: tensors.pop(spec.name) for spec in about.seed_inputs}
    extras = {name: choices.get(name) for name in EXTRAS}
    inside = {latent.name: choices[latent.name] for latent in about.latents}
    bound, _ = bound_inputs(about, (), tensors, extras, check_nan=False, inside=inside)
    return {name: to_numpy(tensor) for name, tensor in zip(dtypes, bound, strict=True)}
