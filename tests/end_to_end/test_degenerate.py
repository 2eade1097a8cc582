"""Degenerate inputs: wherever the network itself answers with finite numbers, so does its explainer.

Zeros, constants, ties, denormals and 1e30; masks of −∞ and rows that see nothing; under every composite, in torch and
in onnxruntime.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.blocks import GatedMLP, build
from support.degenerate import Convolutions, Functions, Masked, inputs
from support.whole import holds
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.rules.composites import COMPOSITES
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(12)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (Convolutions, (1, 3, 8, 8)),
    "masked attention": (Masked, (1, 5, 8)),
    "gated": (GatedMLP, (1, 6)),
    "functions": (Functions, (1, 6)),
}
OPTIONS: dict[str, dict[str, Any]] = {"epsilon-gamma-box": {"low": -3.0, "high": 3.0}}
# One composite for each rule that a network's kind of operations can get; the rest of the table is heavy.
EVERYDAY = {
    "convolutions": ("epsilon-plus", "epsilon-alpha2-beta1-flat", "epsilon-gamma-box", "attnlrp-gamma"),
    "masked attention": ("attnlrp", "dynamic-lrp"),
    "gated": ("attnlrp-gamma", "dynamic-lrp"),
    "functions": ("epsilon", "attnlrp", "dynamic-lrp"),
}
CASES = [
    pytest.param(
        network,
        composite,
        marks=[] if composite in EVERYDAY[network] else [pytest.mark.heavy],
    )
    for network in NETWORKS
    for composite in COMPOSITES
]


def explainer(model: nn.Module, shape: tuple[int, ...], composite: str, **options: Any) -> lrp.Explainer:
    rules = COMPOSITES[composite](**OPTIONS.get(composite, {}))
    return lrp.compile(model.eval(), (torch.ones(shape),), composite=rules, **options)


def is_finite(model: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        return bool(model(x).isfinite().all())


@pytest.mark.parametrize(("network", "composite"), CASES)
def test_relevance_is_finite_wherever_the_network_is(network: str, composite: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[network]
    model = build(make).float()
    explain = explainer(model, shape, composite)
    explain.to_onnx(tmp_path / "m.onnx")
    onnx_explain = OnnxExplainer(tmp_path / "m.onnx")

    asked, wrong = 0, []
    for name, x in inputs(shape).items():
        if not is_finite(model, x):
            continue
        asked += 1
        (in_torch,) = explain(x).relevance.values()
        (in_onnxruntime,) = onnx_explain(x.numpy()).relevance.values()
        if not in_torch.isfinite().all():
            wrong.append((name, "torch"))
        if not np.isfinite(in_onnxruntime).all():
            wrong.append((name, "onnxruntime"))

    assert wrong == []
    assert asked >= 9


@pytest.mark.parametrize("composite", COMPOSITES)
def test_without_biases_nothing_comes_of_nothing(composite: str) -> None:
    model = build(lambda: Convolutions(bias=False)).float()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    x = torch.zeros(1, 3, 8, 8)

    explanation = explainer(model, x.shape, composite, seed="value")(x)

    assert not explanation.output.any()
    assert not explanation.relevance["x"].any()


MAX_POOL = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())


@pytest.fixture
def tie() -> tuple[Tensor, Tensor]:
    """An image of equal pixels, and what it gets for class 1, which is the window at the top right."""
    expected = torch.zeros(1, 1, 4, 4)
    expected[0, 0, 0, 2] = 1.0
    return torch.full((1, 1, 4, 4), 3.0), expected


@pytest.mark.parametrize("composite", COMPOSITES)
def test_of_equals_the_first_one_wins_a_max_pool(composite: str, tie: tuple[Tensor, Tensor]) -> None:
    x, expected = tie

    (relevance,) = explainer(MAX_POOL, x.shape, composite, target=1, seed="one")(x).relevance.values()

    torch.testing.assert_close(relevance, expected)


# Composites have nothing to say about a max pool.
@pytest.mark.parametrize(
    "composite", [pytest.param(name, marks=() if name == "attnlrp" else pytest.mark.heavy) for name in COMPOSITES]
)
def test_of_equals_the_first_one_wins_a_max_pool_in_onnxruntime(
    composite: str, tie: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    x, expected = tie
    explainer(MAX_POOL, x.shape, composite, target=1, seed="one").to_onnx(tmp_path / "m.onnx")

    with OnnxExplainer(tmp_path / "m.onnx") as explain:
        (relevance,) = explain(x.numpy()).relevance.values()

    torch.testing.assert_close(torch.as_tensor(relevance), expected)


class FirstRow(nn.Module):
    """What the first token makes of itself and the second; a mask of −∞ hides the third."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.tensor([0.0, 0.0, -torch.inf])
        return (torch.softmax(x[:, :1] @ x.mT + mask, -1) @ x).squeeze(1)


@pytest.mark.parametrize(
    "composite",
    COMPOSITES,
)
def test_what_a_mask_hides_gets_exactly_nothing(composite: str) -> None:
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))

    (relevance,) = explainer(FirstRow(), x.shape, composite)(x).relevance.values()

    assert relevance.isfinite().all()
    assert not relevance[:, 2].any()
    assert relevance[:, :2].any()


def test_an_empty_input_beside_others_of_another_rank_gets_an_empty_relevance() -> None:
    class Joined(nn.Module):
        def forward(self, empty: Tensor, x: Tensor) -> Tensor:
            return torch.cat([empty, x, 2 * x], -1)

    x = torch.randn(2, 3)
    explainer = holds(Joined(), (torch.empty(0), x), target=1, composite="epsilon")

    relevance = explainer(torch.empty(0).double(), x.double()).relevance
    assert relevance["empty"].shape == (0,)
    assert torch.equal(relevance["x"][:, 1], x[:, 1].double())


SEEN = torch.tensor([True, True, False])
INFINITE = float("inf")
SCALED_MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "filled and turned round": lambda x: -x.masked_fill(~SEEN, INFINITE),
    "chosen and turned round": lambda x: -torch.where(SEEN, x, INFINITE),
    "chosen and scaled": lambda x: 2 * torch.where(SEEN, x, -INFINITE),
    "added and scaled": lambda x: (x + torch.tensor([0.0, 0.0, -INFINITE])) * 0.5,
    "chosen and divided": lambda x: torch.where(SEEN, x, -INFINITE) / 3,
}


@pytest.mark.sampled(48)
@pytest.mark.parametrize("composite", ["epsilon", "attnlrp", "dynamic-lrp", "epsilon-plus"])
@pytest.mark.parametrize("case", SCALED_MASKS)
def test_a_masked_score_that_is_scaled_has_no_share(case: str, composite: str, tmp_path: Path) -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(SCALED_MASKS[case](x).softmax(-1))

    x = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])
    found = lrp.compile(Scores().eval(), (x,), composite=composite, target=0)
    found.to_onnx(tmp_path / "m.lrp.onnx")

    for relevance in (
        found(x).relevance["x"],
        torch.from_numpy(OnnxExplainer(tmp_path / "m.lrp.onnx")(x.numpy()).relevance["x"]),
    ):
        assert relevance.isfinite().all()
        assert relevance[:, 2].eq(0).all()
        assert relevance[:, :2].ne(0).all()
    audit = found.audit(x)
    assert abs(audit.error) < 1e-9
    assert all(math.isfinite(entry.relevance_in) for entry in audit.entries)


PLACE, PLACES = torch.zeros((), dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
ALONG_A_SCALAR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gather": lambda a, b: a.gather(0, PLACE) + b.gather(0, PLACES),
    "scatter": lambda a, b: a.scatter(0, PLACE, b),
    "scatter_add": lambda a, b: a.scatter_add(0, PLACE, b),
    "scatter_reduce": lambda a, b: a.scatter_reduce(0, PLACE, b, "amax") + a.scatter_reduce(0, PLACE, b, "mean"),
    "index_reduce": lambda a, b: a.index_reduce(0, PLACES, b, "mean") + a.index_reduce(0, PLACES, b, "amin"),
    "index_add": lambda a, b: a.index_add(-1, PLACES, b),
    "index_copy": lambda a, b: a + b.index_copy(0, PLACES, a),
    "index_fill": lambda a, b: a.index_fill(0, PLACES, 2.0) + b,
    "index_select": lambda a, b: a.index_select(0, PLACES) + b,
    "cumsum": lambda a, b: a.cumsum(0) + b.logcumsumexp(0),
    "cumprod": lambda a, b: a.cumprod(0) * b,
    "sort": lambda a, b: a.sort(0).values + b.topk(1, 0).values,
    "median": lambda a, b: a.median(0).values + b.kthvalue(1, 0).values,
    "amax": lambda a, b: a.amax(0) + b.amin([]) + a.max(0).values + b.aminmax(dim=0).max,
    "mean": lambda a, b: a.mean(-1, keepdim=True) + b.sum(0),
    "var": lambda a, b: a.var(0, correction=0) + b + a.std(0, correction=0),
    "prod": lambda a, b: a.prod(0) + b.roll(1),
    "norm": lambda a, b: torch.linalg.vector_norm(a, dim=0) * b.norm(),
    "softmax": lambda a, b: a.softmax(0) * b + a.log_softmax(-1) + b.logsumexp(0),
    "flip": lambda a, b: a.flip([]) + b.argmax(0),
}


@pytest.mark.sampled(48)
@pytest.mark.parametrize("case", ALONG_A_SCALAR)
def test_a_dim_of_a_scalar_is_that_of_a_vector_of_one(case: str) -> None:
    class Scalars(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.head = nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(ALONG_A_SCALAR[case](2 * x[0, 0], 3 * x[0, 1]).reshape(1, 1))

    holds(Scalars(), (torch.tensor([[0.75, -0.5, 2.0]]),))


EMPTY: dict[str, Callable[[Tensor], Tensor]] = {
    "summed": lambda x: x * (1 + x[..., :0].sum(-1, keepdim=True)),
    "summed alone": lambda x: x * x[:, 3:].sum(-1, keepdim=True) + x,
    "joined": lambda x: torch.cat([x[:, :0], x, x[:, 3:]], -1),
    "added up": lambda x: x + torch.einsum("bi,bj->b", x, x[:, :0]).unsqueeze(-1),
    "padded": lambda x: x + nn.functional.pad(x[:, :0], (1, 2)),
    "attended": lambda x: x + (x.unsqueeze(-1) @ x[:, None, :0]).sum(-1),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_tensor_without_elements_carries_nothing(case: str) -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.head = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(EMPTY[case](x))

    x = torch.tensor([[0.75, -0.5, 2.0], [1.0, 0.25, -1.5]])
    explainer = holds(Empty(), (x,), composite="epsilon")

    assert explainer(x.double()).relevance["x"].ne(0).any()


SQUEEZED: dict[str, Callable[[Tensor], Tensor]] = {
    "of another size": lambda x: x.unsqueeze(1).squeeze(2),
    "some of another size": lambda x: x.unsqueeze(1).unsqueeze(1).squeeze((1, -1)),
    "all, and the rows are open": lambda x: x.unsqueeze(1).squeeze(),
    "of open rows": lambda x: x.squeeze(0),
    "of a scalar": lambda x: x * x.sum().squeeze().squeeze(0),
}


@pytest.mark.parametrize("case", SQUEEZED)
def test_a_squeeze_takes_away_what_is_1_and_nothing_else(case: str) -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.head = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(SQUEEZED[case](x).reshape(-1, 3))

    x = torch.tensor([[0.75, -0.5, 2.0], [1.0, 0.25, -1.5]])
    holds(Squeezed(), (x,), (torch.cat([x, 2 * x]),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2)}})
