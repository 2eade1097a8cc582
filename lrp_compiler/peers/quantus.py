"""An `explain_func` for Quantus' metrics.

metric = quantus.FaithfulnessCorrelation(...)
metric(model, x_batch, y_batch, explain_func=lrp.quantus.explain, explain_func_kwargs={"composite": "epsilon-plus"})
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.run import to_numpy
from lrp_compiler.base.validate import check_option
from lrp_compiler.rules.composite import Composite

from .kept import Kept

_KEPT: weakref.WeakKeyDictionary[nn.Module, list[Kept]] = weakref.WeakKeyDictionary()
"""Of every module that is still there, its explainers under one composite, or several."""


@boundary("explain these inputs")
def explain(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    composite: str | Composite = "epsilon-plus",
    reduce_axes: Sequence[int] = (),
    keepdims: bool = True,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Relevance of the inputs for the targets, as Quantus asks for it.

    Args:
        model: an nn.Module in eval mode that returns `[batch, classes]`; compiled once, and again when its weights have
            changed, as some metrics do.
        inputs: what it takes, with the batch in front: an array or a tensor.
        targets: the classes, integers `[batch]`, or one for all.
        composite: which rule where, as `lrp.compile` takes it.
        reduce_axes: dims over which relevance is summed: `(1,)` of channels.
        keepdims: whether these stay, of size 1.
        device: where to put the inputs; by default where the model's weights are.

    Returns:
        Relevance, shaped like the inputs but for what is reduced.

    Raises:
        InputError: inputs or targets do not fit.
        LrpError: whatever else `lrp.compile` raises.
    """
    check_option("model", model, isinstance(model, nn.Module), "an nn.Module")
    weight = next(model.parameters(), torch.empty(0))
    x = torch.as_tensor(inputs).to(weight.device if device is None else device)
    if x.is_floating_point() and weight.is_floating_point():
        x = x.to(weight.dtype)  # numpy's own floats are float64
    known = _KEPT.setdefault(model, [])
    kept = next((one for one in known if one.composite == composite), None)
    if kept is None:
        kept = Kept(composite)
        known.append(kept)
    explanation = kept.explain(model, (x,), torch.as_tensor(targets).reshape(-1).to(x.device))
    relevance = to_numpy(next(iter(explanation.relevance.values())))
    return np.asarray(relevance.sum(axis=tuple(reduce_axes), keepdims=keepdims)) if reduce_axes else relevance
