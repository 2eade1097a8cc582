"""Graphs as deep as scans are long: nothing that walks them calls itself for every operation.

Python's stack holds 1,000 calls, and torch and pytest have their share of it.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.heavy

Step = Callable[[Tensor, int], Tensor]


class Deep(nn.Module):
    """As many steps behind a layer, or behind its class scores."""

    def __init__(self, step: Step, steps: int, at_end: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.step, self.steps, self.at_end = step, steps, at_end

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.first(x)
        if self.at_end:
            h = self.last(h).softmax(1)
        for number in range(self.steps):
            h = self.step(h, number)
        return h if self.at_end else self.last(h)


class ManyFactors(nn.Module):
    """The inverse of a product of many constants."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.matrix = nn.Linear(4, 5), nn.Parameter(3 * torch.eye(5) + torch.rand(5, 5) / 5)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix
        for _ in range(1100):
            matrix = matrix * 1.0001
        y: Tensor = self.first(x) @ torch.linalg.inv(matrix)
        return y


LAYERS_BY_SIGN = lrp.Composite("by sign", (lrp.Entry("linear", "z-plus"),))
CASES: dict[str, tuple[nn.Module, str | lrp.Composite]] = {
    "one function after another": (Deep(lambda h, n: torch.relu(h) * 1.0001, 300), "epsilon"),
    "the same, totals asked for": (Deep(lambda h, n: torch.relu(h) * 1.0001, 300), LAYERS_BY_SIGN),
    "sums of functions": (Deep(lambda h, n: torch.tanh(h) + h * 0.001, 400), "attnlrp"),
    "residual": (Deep(lambda h, n: h + torch.relu(h) * 1e-3, 400), "epsilon"),
    "bounds in front of a product": (
        Deep(lambda h, n: (h * 2 if not n else h).clamp(min=-1 - n / 1e3), 1100),
        "epsilon",
    ),
    "bounds of probabilities": (Deep(lambda p, n: p.clamp(min=1e-9 * (n + 1)), 1100, at_end=True), "epsilon"),
    "moved probabilities": (Deep(lambda p, n: p.flip(1), 1100, at_end=True), "epsilon"),
    "constants": (ManyFactors(), "epsilon"),
}


@pytest.mark.filterwarnings("ignore::lrp_compiler.errors.LrpWarning")
@pytest.mark.parametrize("name", CASES)
def test_everything_is_made_of_a_deep_graph(name: str, tmp_path: Path) -> None:
    model, composite = CASES[name]
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))

    explainer = lrp.compile(model.eval(), (x,), composite=composite)

    said = explainer(x)
    # In float32, up to 1,100 operations in a row, each of which rounds by 6e-8: 7e-5 where all round one way.
    torch.testing.assert_close(said.output, model(x), rtol=1e-4, atol=1e-5)
    books = explainer.audit(x)
    assert abs(books.error) <= 1e-9 * max(1.0, books.magnitude)
    explainer.save(tmp_path / "m.lrp.pt2")
    loaded = lrp.load(tmp_path / "m.lrp.pt2")
    assert torch.equal(loaded(x).relevance["x"], said.relevance["x"])
    assert loaded.audit(x).error == books.error
    assert explainer.show() == loaded.show()
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    in_onnx = OnnxExplainer(tmp_path / "m.lrp.onnx")(x.numpy()).relevance["x"]
    largest = said.relevance["x"].abs().max().item()
    np.testing.assert_allclose(in_onnx, said.relevance["x"].numpy(), rtol=0, atol=1e-4 * largest)
