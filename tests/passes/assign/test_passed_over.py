"""What a choice passes over gets no relevance, be it NaN or infinite; what it takes keeps its NaN."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import lrp_compiler as lrp
from lrp_compiler.passes.assign import analyse
from lrp_compiler.passes.graph import assignment
from lrp_compiler.rules import PASSED_OVER
from lrp_compiler.rules.composites import COMPOSITES

COMPOSITES_TRIED = ["epsilon", "attnlrp", "dynamic-lrp", "epsilon-plus"]
X = torch.tensor([[1.5, -2.0, 3.0, -0.5, 0.0], [-3.0, 200.0, 0.0, -100.0, 1.0], [0.0, 0.5, 89.0, -1e3, -1.0]])


def inside(x: Tensor, mask: Tensor) -> Tensor:
    """The operand with ones where it is passed over: how one writes such a function by hand for gradients."""
    return torch.where(mask, x, torch.ones_like(x))


# As it is met, and the same with nothing that is passed over outside the function's domain.
PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "logarithm": (
        lambda x: torch.where(x > 0, x.log(), 0.5 * x),
        lambda x: torch.where(x > 0, inside(x, x > 0).log(), 0.5 * x),
    ),
    "two powers": (
        lambda x: torch.where(x >= 0, ((x + 1) ** 0.3 - 1) / 0.3, -((1 - x) ** 1.7 - 1) / 1.7),
        lambda x: torch.where(
            x >= 0, ((inside(x, x >= 0) + 1) ** 0.3 - 1) / 0.3, -((1 - inside(x, x < 0)) ** 1.7 - 1) / 1.7
        ),
    ),
    "exponential": (
        lambda x: torch.where(x > 0, x, torch.exp(x * 1.5) - 1),
        lambda x: torch.where(x > 0, x, torch.exp(inside(x, x <= 0) * 1.5) - 1),
    ),
    "root, then a chain": (
        lambda x: torch.where(x > 0, torch.tanh(torch.sqrt(x) * 2 + 1).unsqueeze(0).squeeze(0), x),
        lambda x: torch.where(x > 0, torch.tanh(torch.sqrt(inside(x, x > 0)) * 2 + 1), x),
    ),
    "quotient": (
        lambda x: (3 / x).masked_fill(x == 0, 0.0),
        lambda x: (3 / inside(x, x != 0)).masked_fill(x == 0, 0.0),
    ),
    "quotient of two": (
        lambda x: torch.where(x > 0, (x.flip(-1) + 1) / x.abs().sqrt(), x),
        lambda x: torch.where(x > 0, (x.flip(-1) + 1) / inside(x, x > 0).abs().sqrt(), x),
    ),
    "product of two": (
        lambda x: torch.where(x > 0, x.log() * torch.tanh(x), x),
        lambda x: torch.where(x > 0, inside(x, x > 0).log() * torch.tanh(x), x),
    ),
    "searched": (
        lambda x: torch.where(x.log1p().isnan() | x.log1p().isinf(), x, x.log1p()),
        lambda x: torch.where(x <= -1, x, inside(x, x > -1).log1p()),
    ),
    "choice in a choice": (
        lambda x: torch.where(x > 0, torch.where(x > 2, (x - 2).log(), x.sqrt()), x),
        lambda x: torch.where(x > 0, torch.where(x > 2, inside(x - 2, x > 2).log(), inside(x, x > 0).sqrt()), x),
    ),
    "written into place": (lambda x: _written(x), lambda x: torch.where(x > 0, inside(x, x > 0).log(), 0.0)),
}


def _written(x: Tensor) -> Tensor:
    y = x.log()
    y[x <= 0] = 0.0
    return y


class Chosen(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.eval()
        self.function = function
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(5, 2, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) @ self.weight  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.sampled(12)
@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("composite", COMPOSITES_TRIED)
@pytest.mark.parametrize("name", PAIRS)
def test_it_is_as_if_the_function_were_defined_there(name: str, composite: str, optimise: bool) -> None:
    met, safe = PAIRS[name]
    x = X.double()
    explained = [
        lrp.compile(Chosen(function), (x,), composite=composite, optimise=optimise, target=0)(x)
        for function in (met, safe)
    ]
    here, there = (explanation.relevance["x"] for explanation in explained)

    assert explained[0].output.isfinite().all()
    assert here.isfinite().all()
    assert torch.allclose(here, there, rtol=1e-9, atol=1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", PAIRS)
def test_the_books_close_and_onnxruntime_agrees(name: str, tmp_path: Any) -> None:
    module = Chosen(PAIRS[name][0]).float()
    explainer = lrp.compile(module, (X,), composite="epsilon", target=0)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    here, there = explainer(X).relevance["x"], lrp.OnnxExplainer(tmp_path / "m.lrp.onnx")(X.numpy()).relevance["x"]

    audit = explainer.audit(X)
    assert abs(audit.error) < 1e-9
    assert torch.allclose(here, torch.as_tensor(there), rtol=1e-5, atol=1e-6 * float(here.abs().max()))


def test_a_nan_that_is_taken_stays() -> None:
    module = Chosen(lambda x: torch.where(x > -1, x.log(), x)).float()
    x = X[:1]
    relevance = lrp.compile(module, (x,), composite="epsilon", target=0)(x, check_nan=False).relevance["x"]

    assert relevance.isnan().any()


@pytest.mark.slow
def test_in_a_loop() -> None:
    class Steps(torch.nn.Module):
        def __init__(self, safe: bool) -> None:
            super().__init__()
            self.eval()
            self.safe = safe
            self.register_buffer("weight", torch.tensor([[1.0], [-2.0]], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            state = torch.zeros_like(x[:, 0])
            for step in range(x.shape[1]):
                now = x[:, step]
                given = inside(now, now > 0) if self.safe else now
                state = 0.5 * state + torch.where(now > 0, given.log(), now)
            return state @ self.weight  # type: ignore[operator]

    x = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shapes = {"x": {1: torch.export.Dim("length", min=3)}}
    here, there = (
        lrp.compile(Steps(safe), (x,), composite="epsilon", dynamic_shapes=shapes)(x).relevance["x"]
        for safe in (False, True)
    )

    assert here.isfinite().all()
    assert torch.allclose(here, there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "marked"),
    [
        (lambda x: torch.where(x > 0, x.log() * 2, x), {"log", "mul", "where"}),
        (lambda x: torch.where(x > 0, x.log().sum(-1, keepdim=True), x), {"where"}),
        (lambda x: x.log() * 2, set()),
        (lambda x: torch.where(x > 0, x * 2, x), set()),
        (lambda x: torch.where(x > 0, x.relu().sqrt(), x), set()),
        (lambda x: torch.where(x > 0, x / 2, x**2), set()),
    ],
)
def test_which_values_may_be(
    function: Callable[[Tensor], Tensor], marked: set[str], graph_of: Callable[..., fx.GraphModule]
) -> None:
    graph = graph_of(function, X)
    inputs = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    analyse(graph, inputs, COMPOSITES["epsilon"]())

    known = {node.name: given for node in graph.graph.nodes if (given := assignment(node)) is not None}
    found = {name.split("_")[0] for name, given in known.items() if given.facts[PASSED_OVER]}
    assert found - {"where"} == marked - {"where"}
