"""Architectures of every kind: all nodes covered, the books balance, both runtimes agree, either attention will do.

They are those of `benchmarks/sound/coverage.py`, one layer deep here and at full depth where the test is marked heavy.
"""

import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import lrp_compiler as lrp
from benchmarks.base.places import README, RESULTS
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.sound.coverage_table import with_summary
from benchmarks.sound.stages import measurements

# Kinds that the seven networks of the other tests do not hold; (width, depth).
TINY = {
    "conv1d_audio": (16, None),
    "conv3d_video": (16, None),
    "graph": (1, None),
    "transformer_encoder": (8, 1),
    "deplot": (32, 1),
    "mixtral": (128, 1),
}
# By the published width.
ATTENTION = {
    "gpt2": 32,
    "llama": 32,
    "whisper": 32,
    "siglip2": 18,
}


@cache
def measured(name: str, width: int | None = None, depth: int | None = None) -> dict[str, Any]:
    """The architecture's row in the benchmark's table."""
    row: dict[str, Any] = {}
    for _, found in measurements(name, width, "parity", threads=2, depth=depth):
        row |= found
    return row


def holds(row: dict[str, Any]) -> None:
    """What every architecture has to keep."""
    assert not row["uncovered"]
    assert row["balance_float64"] <= 1e-9
    assert row["onnx"]["opsets"] == [["", 20]]
    assert not row["onnx"]["foreign"]
    # Random weights may amplify rounding until the network's own output is off by as much: then float32 is a lottery.
    own = max(error["torch"] for value, error in row["parity"].items() if not value.startswith("relevance."))
    if own <= 5e-4:
        assert row["float32_sum"] <= 1e-3
        for value, error in row["parity"].items():
            assert error["onnxruntime"] <= 3 * error["torch"], value


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_architecture_is_covered_balanced_and_portable(name: str) -> None:
    row = measured(name, *TINY[name])

    holds(row)
    assert row["balance"] <= 1e-6  # in float32: deeper ones round more


@pytest.mark.heavy
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_at_full_depth_is_covered_balanced_and_portable(name: str) -> None:
    holds(measured(name))


# Llama is compared with its reference in either.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.heavy if name == "llama" else ()) for name in ATTENTION]
)
def test_eager_and_fused_attention_give_the_same_relevance(name: str) -> None:
    eager, fused = (relevance(name, attention) for attention in ("eager", "sdpa"))

    for taken, expected in eager.items():
        # Eager attention takes its softmax in float32 in many models, whatever their own precision.
        torch.testing.assert_close(fused[taken], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def relevance(name: str, attention: str) -> dict[str, Tensor]:
    architecture = ARCHITECTURES[name]
    model = architecture.build(width=ATTENTION[name], depth=1, attention=attention).double()
    inputs = {
        taken: value.double() if value.is_floating_point() else value for taken, value in architecture.inputs(2).items()
    }
    return lrp.compile(model, kwargs=inputs, composite="attnlrp")(**inputs).relevance


def test_the_readme_shows_what_was_measured() -> None:
    rows = json.loads((RESULTS / "coverage.json").read_text())

    assert with_summary(README.read_text(), rows) == README.read_text()
