"""A second metric, by others: Quantus' faithfulness correlation (Bhatt et al., 2020) on the networks trained here.

Pixels at random places are made black; over many such draws, how does the fall of the predicted class's logit correlate
with the relevance of the pixels that went? Pearson's r for each image. No order, no blur, no groups: nothing in common
with flipping but the question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.faithful import images
from benchmarks.faithful.interface import say
from benchmarks.faithful.metrics import values_row

IMAGES, DRAWS, PIXELS = 300, 100, 49
METHODS = (
    *("epsilon", "epsilon-plus", "epsilon-gamma-box", "attnlrp", "cp-lrp", "attnlrp-gamma(0.25, 0.05)"),
    *("cp-lrp-gamma(0.25, 0.05)", "dynamic-lrp", *images.LAST),
)
NAME = "faithfulness-correlation"
MODELS = {
    name: images.Model(
        model.title, model.load, tuple(method for method in METHODS if method in model.methods), metric=NAME
    )
    for name, model in images.MODELS.items()
    if name.endswith("fashion_mnist")
}


def measure(name: str, methods: list[str] | None, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each method, as soon as it is measured (see the package's docstring)."""
    model = MODELS[name]
    say("load")
    loaded = model.load(quick).first(IMAGES)
    subject = images.subject_of(loaded)
    about = {"model": name, "title": model.title, "metric": NAME}
    about["about"] = f"{loaded.about}; {DRAWS} draws of {PIXELS} pixels an image"
    for row, relevance, seconds in images.explained(subject, methods or model.methods, about):
        if relevance is not None:
            say(f"correlate {row['method']}")
            found = correlations(loaded, subject, relevance.numpy())
            row = values_row({"correlation": found}, images.SEED, **row, seconds=seconds)
        yield row


def correlations(loaded: images.Loaded, subject: images.Subject, relevance: np.ndarray) -> np.ndarray:
    """One number an image, by Quantus."""
    import quantus

    metric = quantus.FaithfulnessCorrelation(
        nr_runs=DRAWS,
        subset_size=PIXELS,
        perturb_baseline="black",
        normalise=False,
        return_aggregate=False,
        disable_warnings=True,
    )
    np.random.seed(images.SEED)  # what Quantus draws its places from
    said = metric(
        model=loaded.model,
        x_batch=loaded.x.numpy(),
        y_batch=subject.target.numpy(),
        a_batch=relevance.sum(1, keepdims=True),
        device="cpu",
        softmax=False,
    )
    return np.nan_to_num(np.array(said, np.float64))
