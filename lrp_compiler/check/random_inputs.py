"""Inputs that a model surely takes, from what its file says of them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.latents import whole_shape
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.validate import EXTRAS


def random_inputs(about: Metadata, limits: Mapping[str, int], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of the example's sizes, two rows at least where the batch is open; ones where a range is not known. Masks
    are numbers between 0 and 1.

    Raises:
        FormatError: an input is of a dtype that there is not.
    """
    sizes = dict(about.sizes)
    if "batch" in sizes:
        sizes["batch"] = max(sizes["batch"], 2)
    feeds = {}
    kinds = {latent.name: latent.kind for latent in about.latents}
    for spec in about.takes:
        shape = whole_shape(spec, sizes)
        try:
            name, dtype = spec.name, np.dtype(spec.dtype.replace("bfloat16", "float32"))
        except TypeError as error:
            raise FormatError(f"The explainer's metadata describes a tensor wrongly: {spec}.") from error
        if kinds.get(name) == "past":
            feeds[name] = np.zeros(shape, dtype)  # what a call feeds where the mask is given
        elif kinds.get(name) == "mask":
            feeds[name] = random.random(shape).astype(dtype)
        elif dtype.kind == "f":
            feeds[name] = random.standard_normal(shape).astype(dtype)
        elif name in ("target", "against") and about.classes:
            feeds[name] = random.integers(0, about.classes, shape)
        elif name in limits:
            feeds[name] = random.integers(0, limits[name], shape).astype(dtype)
        else:
            feeds[name] = np.full(shape, name not in EXTRAS, dtype)
    return feeds
