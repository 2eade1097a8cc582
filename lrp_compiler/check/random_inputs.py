"""Inputs that a model surely takes, from what its file says of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.latents import whole_shape
from lrp_compiler.base.metadata import Metadata

EXTRAS = ("target", "position", "seed", "weights", "against")
PASSES_ON = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten"}
"""What may stand between an input and the table that it looks up."""


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


def table_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Input → rows of the smallest table that it looks up."""
    rows = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    limits: dict[str, int] = {}
    for value in model.graph.input:
        reached = {value.name}
        for node in model.graph.node:
            if node.op_type in PASSES_ON and node.input[0] in reached:
                reached.add(node.output[0])
            elif node.op_type == "Gather" and node.input[1] in reached:
                table = node.input[0]
                table = made[table].input[0] if table in made and made[table].op_type == "Cast" else table
                if table in rows:
                    limits[value.name] = min(rows[table][0], limits.get(value.name, rows[table][0]))
    return limits
