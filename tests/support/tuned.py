"""Small things to tune."""

from typing import Any

import numpy as np
import torch
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.tuning.tuned import Trial, bootstrap


def linear(*weights: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One logit, w·x: the contribution of x_i is w_i x_i, and that is its relevance under ε → 0."""
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([weights], dtype=dtype))
    return nn.Sequential(layer).eval()


def gammas(gamma: float = 1.0) -> lrp.Composite:
    return lrp.Composite("gammas", (lrp.Entry("linear", "gamma", {"gamma": gamma}),))


def trial(samples: Any, base: Any, **options: Any) -> Trial:
    samples, base = np.asarray(samples, float), np.asarray(base, float)
    none = np.zeros(2)
    return Trial(options, gammas(), (), samples, bootstrap(samples), bootstrap(samples - base), none, none, none)
