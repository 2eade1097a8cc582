"""What run.py runs: metrics, methods and models; and who is told how far it is.

    metrics.py    from flipping curves to numbers: pure numpy
    flipping.py   which places go at which step, and the curves of a model
    methods.py    name → attribution function of image models, with its family
    images.py     the image models and their inputs;  text.py  the text models
    training.py   the two networks trained here, and their data
    report.py     rows → JSON, tables, curves

images.py and text.py have the same interface:

    MODELS: dict[str, ...]                the models by name; each has `.title`, `.methods` (names, in the order of the
                                          table) and `.metric` (a key of `metrics.METRICS`: "flipping", "answer")
                                              and optionally `.quick` (the few names for CI; none: not in CI)
measure(name, methods, quick) -> Iterator[dict]
                                          a row for each method, as soon as it is measured; `methods`: names, or None
                                          for all of the model's; `quick`: few samples, for CI

A row of metric "flipping" is a plain dict that JSON takes (metrics.flipping_row makes it from the curves):

    model, method       names
    family              "ours" | "peer" | "baseline"
    metric              "flipping"
    title, about        of the model, about: what is explained, accuracy, on what
    samples, seed       how many inputs, the seed of everything drawn
    steps               how many flips a curve has; each curve has steps + 1 points, the first of the input as it is
    curves              {"probability": {"morf": [...], "lerf": [...]}, "accuracy": {...}}: means over inputs
    abpc                mean gap LeRF − MoRF of the predicted class's probability
    abpc_interval       [low, high]: 95 % bootstrap over inputs
    abpc_samples        one number an input, in the order of the inputs, for paired differences
    accuracy_gap        the same of accuracy (label matches), with accuracy_gap_interval; `paper_abpc` is 4 × it
    comprehensiveness   mean fall of the probability under MoRF: large is good
    sufficiency         mean fall of the probability under LeRF: small is good
    seconds             of CPU, of all explanations, compilation included
    note                optional: what differs

Rows of another metric hold model, method, family, metric, title, about, samples, seed, and
`values`: {name: mean}, `intervals`: {name: [low, high]}, `values_samples`: {name: [one number an input]}
(see metrics.values_row). A method that cannot be run has the row {model, method, family, failure: "one sentence"}.
"""

from __future__ import annotations

from collections.abc import Callable

LISTENERS: list[Callable[[str], None]] = []
"""Who is told what is being done."""


def say(doing: str) -> None:
    """Tell what is being done, a few words: run.py shows them."""
    for listener in LISTENERS:
        listener(doing)
