"""Optimisations change the speed and nothing else: with and without them the relevance is the same."""

from typing import Any

import pytest
import torch
from support.small import small
from torch import Tensor

import lrp_compiler as lrp
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.speed.cases import CASES
from lrp_compiler.compiler import resolve_composite
from lrp_compiler.explanation import Explanation

SAME = 1e-9
"""Of the largest relevance: float64's rounding in another order, which differences of large sums magnify."""
PAIRS = [
    ("vgg16", "epsilon-plus"),
    ("resnet50", "epsilon"),
    ("bert", "attnlrp"),
    *(
        pytest.param(*pair, marks=pytest.mark.heavy)
        for pair in (
            ("vgg16", "epsilon"),
            ("vgg16", "epsilon-gamma-box"),
            ("vgg16", "epsilon-alpha2-beta1"),
            ("resnet50", "epsilon-plus"),
            ("vit_b_16", "attnlrp-gamma"),
        )
    ),
]
OPTIONS: dict[str, dict[str, Any]] = {"epsilon-gamma-box": {"low": -4.0, "high": 4.0}}
STANDS_IN = {"bert": "roberta_large"}
"""For a network that is not among the architectures, one of the same kind."""


def differ(found: Explanation, expected: Explanation) -> float:
    """The largest difference of relevance, by the largest relevance."""
    pairs = [(found.relevance[name].double(), value.double()) for name, value in expected.relevance.items()]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.heavy
@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "composite"), PAIRS)
def test_the_relevance_is_the_same_without_them(name: str, composite: str) -> None:
    example = small(name, torch.float64)
    rules = resolve_composite(composite, OPTIONS.get(composite))
    args, kwargs = example.fresh(batch=3, seed=7)

    optimised, plain = (
        lrp.compile(
            example.model,
            example.args,
            example.kwargs,
            composite=rules,
            dynamic_shapes=example.dynamic_shapes,
            optimise=value,
        )(*args, **kwargs)
        for value in (True, False)
    )

    assert differ(optimised, plain) <= SAME


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
def test_every_case_of_the_benchmark_is_the_same_without_them(name: str) -> None:
    case = CASES[name]
    architecture = ARCHITECTURES[STANDS_IN.get(case.network, case.network)]
    model = architecture.build().double()
    inputs = {taken: _wide(value) for taken, value in architecture.inputs(2).items()}
    rules = resolve_composite(case.composite, case.options)

    optimised, plain = (
        lrp.compile(model, kwargs=inputs, composite=rules, optimise=value)(**inputs) for value in (True, False)
    )

    assert differ(optimised, plain) <= SAME


def _wide(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
