"""Models in half precision: their forward stays what it is; relevance is summed and divided in float32.

The oracle is the relevance module of `split()` run in float64 on the values that the forward made in half precision:
what rounding relevance suffers on its own way, whatever the forward's own rounding did to the values.
"""

from pathlib import Path

import onnxruntime
import pytest
import torch
from support.small import small
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import LrpError
from lrp_compiler.passes.graph import Float64

pytestmark = pytest.mark.sampled(12)

HALF = (torch.float16, torch.bfloat16)
CASES = {"vgg16": "epsilon-plus", "resnet50": "epsilon", "bert": "attnlrp", "llama": "attnlrp"}


# Each network in one dtype every day, which changes no rule.
EVERY_DAY = {"vgg16": torch.float16, "resnet50": torch.bfloat16, "bert": torch.float16, "llama": torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if dtype == EVERY_DAY[name] else pytest.mark.heavy)
        for name in CASES
        for dtype in HALF
    ],
)
def test_relevance_is_float32_throughout(name: str, dtype: torch.dtype) -> None:
    example = small(name, dtype)
    explainer = lrp.compile(example.model, example.args, example.kwargs, composite=CASES[name])

    explanation = explainer(*example.args, **example.kwargs)

    forward, relevance = explainer.split()
    tensors = [*example.args, *example.kwargs.values()]
    kept = forward(*tensors)[len(explainer.metadata["outputs"]) :]
    exact = Float64(relevance).run(*kept)
    for ours, wanted in zip(explanation.relevance.values(), exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours.double() - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", HALF)
def test_it_is_the_relevance_of_the_same_weights_in_float64_up_to_the_forward(dtype: torch.dtype) -> None:
    """A transformer has no kinks: what the forward rounds is all that differs."""
    low, high = small("gpt2", dtype), small("gpt2", torch.float64)
    rounded = {name: tensor.to(dtype).double() for name, tensor in high.model.state_dict().items()}
    model = type(high.model)(high.model.config).double().eval()
    model.load_state_dict(rounded)

    ours = lrp.compile(low.model, low.args, low.kwargs, target=3)(*low.args, **low.kwargs)
    wanted = lrp.compile(model, high.args, high.kwargs, target=3)(*high.args, **high.kwargs)

    for name, exact in wanted.relevance.items():
        error = (ours.relevance[name].double() - exact).abs().max() / exact.abs().max()
        assert error <= 8 * torch.finfo(dtype).eps


class Faint(nn.Module):
    """Its second map's results lie below what float16 can divide by, its relevance above what float16 can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 3)
        with torch.no_grad():
            self.first.weight.mul_(1e-3)
            self.first.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("budget", [1.0, 0.0])
@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "epsilon-alpha2-beta1"])
def test_faint_values_and_large_seeds_neither_vanish_nor_overflow(composite: str, budget: float) -> None:
    torch.manual_seed(0)
    model, x = Faint().half().eval(), torch.rand(2, 64, dtype=torch.float16)
    explainer = lrp.compile(model, (x,), composite=composite, seed="tensor", memory_budget=budget)
    seed = torch.full((2, 3), 3e5)

    explanation = explainer(x, seed=seed)

    books = explainer.audit(x, seed=seed)
    assert explanation.relevance["x"].isfinite().all()
    total = float(explanation.relevance["x"].double().sum())
    # The graph sums in float32, the books in float64: measured, 1e-5 of Σ|R| under ε.
    assert total == pytest.approx(sum(books.inputs.values()), abs=1e-4 * books.magnitude)
    assert abs(books.error) <= 1e-12 * books.magnitude
    own = explainer.audit(x, seed=seed, precision="model")
    assert abs(own.error) <= 2**-10 * own.seed, "more than float16 rounds off an output"
    assert sum(own.inputs.values()) == pytest.approx(total, abs=1e-5 * own.magnitude)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "bert"])
def test_a_float16_explainer_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    example = small(name, torch.float16)
    explainer = lrp.compile(example.model, example.args, example.kwargs, composite=CASES[name], target=1)
    explainer.to_onnx(tmp_path / "half.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx")
    tensors = [*example.args, *example.kwargs.values()]

    given = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), tensors, strict=True)}
    ours = dict(zip([value.name for value in session.get_outputs()], session.run(None, given), strict=True))

    torchs = explainer(*example.args, **example.kwargs)
    exact = Float64(explainer.module).run(*tensors)[len(explainer.metadata["outputs"]) :]
    for (key, other), wanted in zip(torchs.relevance.items(), exact, strict=True):
        found = torch.from_numpy(ours[f"relevance.{key}"])
        assert found.dtype == torch.float32
        assert error(found, wanted) <= 3 * error(other, wanted)


def error(found: Tensor, wanted: Tensor) -> float:
    """Median over rows of the difference's sum, as a share of the row's own."""
    difference = (found.double() - wanted).abs().flatten(1).sum(1)
    return float((difference / wanted.abs().flatten(1).sum(1)).median())


def test_a_bfloat16_explainer_is_no_onnx_file(tmp_path: Path) -> None:
    example = small("vgg16", torch.bfloat16)
    explainer = lrp.compile(example.model, example.args, example.kwargs)

    with pytest.raises(LrpError, match="bfloat16"):
        explainer.to_onnx(tmp_path / "half.onnx")

    assert not list(tmp_path.iterdir())
    explainer.save(tmp_path / "half.pt2")
    again = lrp.load(tmp_path / "half.pt2")(*example.args, **example.kwargs)
    for key, wanted in explainer(*example.args, **example.kwargs).relevance.items():
        assert torch.equal(again.relevance[key], wanted)
