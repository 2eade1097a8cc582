"""A size that varies is a number like any other: wherever an op takes one, relevance is what a fixed size gives."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.whole import Between, holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor
from torch.nn import functional

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(12)

X, OTHER = (torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows)) for rows in (3, 5))
OPEN = {"x": {0: torch.export.Dim("batch")}}
USES: dict[str, Callable[[Tensor], Tensor]] = {
    "divided": lambda x: x / x.shape[0],
    "multiplied": lambda x: x * x.shape[0],
    "multiplied by a root": lambda x: x * x.shape[0] ** 0.5,
    "divided by all elements": lambda x: x / x.numel(),
    "mean by hand": lambda x: x - 0.5 * x.sum(0) / x.shape[0],
    "variance": lambda x: x * x.var(0),
    "added": lambda x: x + x.shape[0],
    "subtracted": lambda x: x - x.shape[0] / 2,
    "subtracted from": lambda x: x.shape[0] - x,
    "dividend": lambda x: x.shape[0] / (x * x + 1),
    "alpha": lambda x: torch.add(x, torch.sin(x).roll(1, -1), alpha=x.shape[0] / 2),
    "alpha of a product": lambda x: torch.addmm(x[0], x, x.new_ones(4, 4), alpha=1 / x.shape[0]),
    "exponent": lambda x: (x.abs() + 0.1) ** (x.shape[0] / 2),
    "exponent below 1": lambda x: (x.abs() + 0.1) ** (1 / x.shape[0]),
    "base": lambda x: x.shape[0] ** x,
    "upper bound": lambda x: x.clamp(max=x.shape[0] / 8),
    "bounds": lambda x: x.clamp(-1 / x.shape[0], 1 / x.shape[0]),
    "slope": lambda x: functional.leaky_relu(x, 1 / x.shape[0]),
    "alpha of an ELU": lambda x: functional.elu(x, 1 / x.shape[0]),
    "whole quotient": lambda x: x * (x.shape[0] // 2),
    "the larger one": lambda x: x / max(x.shape[0], 4),
    "truth": lambda x: x * (x.shape[0] > 4),
    "temperature": lambda x: torch.softmax(x / x.shape[0] ** 0.5, -1),
    "attention over the rows": lambda x: torch.softmax(x @ x.T / x.shape[0] ** 0.5, -1) @ x,
}
Z_PLUS = lrp.Composite("z-plus", (lrp.Entry("*", "z-plus"), *lrp.composites.epsilon_plus().entries))


@pytest.mark.slow
@pytest.mark.sampled(48)
@pytest.mark.parametrize("use", USES)
def test_relevance_is_that_of_the_model_at_a_fixed_size(use: str, tmp_path: Path) -> None:
    model = in_precision(Between(USES[use]), torch.float64)
    other = OTHER.double()

    explainer = holds(model, (X,), (OTHER,), dynamic_shapes=OPEN)

    fixed = lrp.compile(model, (other,), composite="attnlrp", target=0)
    torch.testing.assert_close(explainer(other).relevance["x"], fixed(other).relevance["x"], rtol=1e-9, atol=1e-12)
    survives_files(explainer, (other,), tmp_path)


@pytest.mark.sampled(48)
@pytest.mark.parametrize("use", USES)
def test_onnxruntime_agrees(use: str, tmp_path: Path) -> None:
    runs_in_onnxruntime(Between(USES[use]), (X,), (OTHER,), tmp_path, dynamic_shapes=OPEN)


@pytest.mark.slow
@pytest.mark.sampled(48)
@pytest.mark.parametrize("composite", ["epsilon-plus", "dynamic-lrp", Z_PLUS], ids=str)
@pytest.mark.parametrize("use", ["multiplied by a root", "added", "subtracted from", "alpha", "alpha of a product"])
def test_rules_that_look_at_signs_and_sizes_take_a_size_for_the_number_that_it_is(
    use: str, composite: str | lrp.Composite
) -> None:
    model = in_precision(Between(USES[use]), torch.float64)
    other = OTHER.double()

    explainer = holds(model, (X,), (OTHER,), dynamic_shapes=OPEN, composite=composite)

    fixed = lrp.compile(model, (other,), composite=composite, target=0)
    torch.testing.assert_close(explainer(other).relevance["x"], fixed(other).relevance["x"], rtol=1e-9, atol=1e-12)
