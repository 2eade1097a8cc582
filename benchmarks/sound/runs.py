"""One explainer run by onnxruntime, by torch and in float64, and how far the runs lie apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def classes(batch: int) -> Any:
    import torch

    return (torch.arange(batch) + 2) % 5


Run = list[dict[str, Any]]
"""For each batch: `output` and `relevance.<input>`."""


def run_explainer(explainer: Any, batches: list[dict[str, Any]], run: Callable[..., Any] | None = None) -> Run:
    """`run(module, tensors)` → flat results; default: the module is called."""
    import torch

    metadata = explainer.metadata
    own = len(metadata["outputs"])
    names = [f"relevance.{entry['input']}" for entry in metadata["relevance"]]
    order = [entry["name"] for entry in metadata["inputs"]]
    results = []
    for inputs in batches:
        tensors = [*(inputs[name] for name in order), classes(batch_size(inputs))]
        with torch.no_grad():
            flat = explainer.module(*tensors) if run is None else run(explainer.module, tensors)
        results.append({"output": flat[explained_output(metadata)], **dict(zip(names, flat[own:], strict=True))})
    return results


def in_float64(module: Any, tensors: list[Any]) -> Any:
    """The same graph with the same weights, all in double precision."""
    from lrp_compiler.passes.graph import Float64

    return Float64(module).run(*tensors)


def run_session(path: Path, batches: list[dict[str, Any]], threads: int) -> Run:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["lrp_compiler"])
    output = metadata["outputs"][explained_output(metadata)]["name"]
    names = [output, *(value.name for value in session.get_outputs() if value.name.startswith("relevance."))]
    taken = {value.name for value in session.get_inputs()}
    results = []
    for inputs in batches:
        given = inputs | {"target": classes(batch_size(inputs))}
        values = session.run(names, {name: given[name].numpy() for name in given if name in taken})
        results.append(dict(zip(["output", *names[1:]], map(torch.from_numpy, values), strict=True)))
    return results


def explained_output(metadata: dict[str, Any]) -> int:
    number = metadata["explained"]
    assert isinstance(number, int)
    return number


def batch_size(inputs: dict[str, Any]) -> int:
    """Images are the rows where a model takes images and texts."""
    value = inputs.get("pixel_values", next(iter(inputs.values())))
    return int(value.shape[0])


def median_error(key: str, run: Run, exact: Run) -> float:
    """Median over all rows of all batches of the largest difference, as a share of the row's largest value."""
    import torch

    errors = []
    for ours, reference in zip(run, exact, strict=True):
        assert ours[key].shape == reference[key].shape, f"{key}: {ours[key].shape} instead of {reference[key].shape}"
        value = reference[key].flatten(1) if reference[key].ndim > 1 else reference[key][:, None]
        difference = (ours[key].double().reshape(value.shape) - value).abs().amax(1)
        largest = value.abs().amax(1)
        errors.append(difference[largest > 0] / largest[largest > 0])
        assert not difference[largest == 0].any(), f"{key}: relevance where there is none"
    return float(torch.cat(errors).median())
