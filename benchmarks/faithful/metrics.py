"""From curves to numbers, in numpy. All metrics are means over inputs of one number an input.

A curve is what a model says as more and more of its input is replaced: point 0 is the input as it is, point k after k
of K flips. MoRF flips the most relevant places first, LeRF the least relevant first. Sources: Samek et al., "Evaluating
the visualization of what a deep neural network has learned" (2017); comprehensiveness and sufficiency: DeYoung et al.,
"ERASER" (2020), here over all K flips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
METRICS = {
    "flipping": "flipping the most and the least relevant first",
    "answer": "relevance inside the answer's span",
    "faithfulness-correlation": "Quantus: faithfulness correlation",
}
RESAMPLES = 2000
LEVEL = 0.95


class Curves(NamedTuple):
    """What was measured under both orders, `[inputs, K + 1]` each."""

    morf: Array
    lerf: Array


def abpc(curves: Curves) -> Array:
    """Area between perturbation curves, `[inputs]`: the mean over the K flips of LeRF − MoRF, in the curve's unit.

    The paper's figure is four times this, of accuracy. At both ends the curves meet, so this is also the area by
    trapezoids. In [−1, 1] for probabilities; 0 is what an order by chance gives on average.
    """
    gap: Array = (curves.lerf - curves.morf)[:, 1:].mean(1)
    return gap


def comprehensiveness(curves: Curves) -> Array:
    """How much is lost without what is most relevant, `[inputs]`: the mean over flips of p₀ − p under MoRF."""
    return _fall(curves.morf)


def sufficiency(curves: Curves) -> Array:
    """How much is lost with only what is most relevant, `[inputs]`: the mean over flips of p₀ − p under LeRF."""
    return _fall(curves.lerf)


def _fall(curve: Array) -> Array:
    fall: Array = (curve[:, :1] - curve[:, 1:]).mean(1)
    return fall


def interval(samples: Array, seed: int = 0) -> list[float]:
    """Where the mean lies with 95 % confidence: percentiles of the means of resampled inputs (bootstrap)."""
    samples = np.asarray(samples, np.float64)
    generator = np.random.default_rng(seed)
    # Each resample by how often it draws which input: the same inputs for every method that is given the same seed.
    counts = generator.multinomial(len(samples), np.full(len(samples), 1 / len(samples)), size=RESAMPLES)
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    return [float(value) for value in np.percentile(counts @ samples / len(samples), tails)]


def difference(first: Array, second: Array, seed: int = 0) -> tuple[float, list[float]]:
    """Mean of `first − second`, input by input, and its interval: the inputs are the same, so their spread cancels."""
    paired = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return float(paired.mean()), interval(paired, seed)


def flipping_row(probability: Curves, accuracy: Curves, seed: int, **about: Any) -> dict[str, Any]:
    """A row of metric "flipping" (see the package's docstring); `about`: model, method, family, title, …

    Args:
        probability: of the class that is predicted for the input as it is.
        accuracy: 1 where the prediction is right, 0 where it is not.
        seed: of everything drawn, also of the bootstrap.
    """
    gaps, right = abpc(probability), abpc(accuracy)
    return {
        **about,
        "metric": "flipping",
        "samples": len(gaps),
        "seed": seed,
        "steps": probability.morf.shape[1] - 1,
        "abpc": float(gaps.mean()),
        "abpc_interval": interval(gaps, seed),
        "accuracy_gap": float(right.mean()),
        "accuracy_gap_interval": interval(right, seed),
        "paper_abpc": 4 * float(right.mean()),
        "comprehensiveness": float(comprehensiveness(probability).mean()),
        "sufficiency": float(sufficiency(probability).mean()),
        "curves": {"probability": _means(probability), "accuracy": _means(accuracy)},
        "abpc_samples": [round(float(value), 6) for value in gaps],
    }


def _means(curves: Curves) -> dict[str, list[float]]:
    return {name: [round(float(v), 6) for v in curve.mean(0)] for name, curve in curves._asdict().items()}


def values_row(values: Mapping[str, Array], seed: int, metric: str, **about: Any) -> dict[str, Any]:
    """A row of any other metric: `values` holds one number an input under each name."""
    return {
        **about,
        "metric": metric,
        "samples": len(next(iter(values.values()))),
        "seed": seed,
        "values": {name: float(np.mean(each)) for name, each in values.items()},
        "intervals": {name: interval(each, seed) for name, each in values.items()},
        "values_samples": {name: [round(float(v), 6) for v in each] for name, each in values.items()},
    }
