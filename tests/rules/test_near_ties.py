"""Near-ties: shares by hand, window by window; the sum kept; no jump where two values change places."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import LrpError
from lrp_compiler.rules import Op, RuleError, propagate, total, unit

aten = torch.ops.aten
WITHIN = 0.05
POOLS = {
    "plain": (2, 2, 0, 1, False, 8),
    "overlapping, over the border": (3, 2, 1, 1, False, 9),
    "last windows reach over the end": (3, 2, 0, 1, True, 8),
    "dilated": (2, 1, 1, 2, False, 7),
    "border and end": (3, 3, 1, 1, True, 8),
}


def shares(values: Tensor) -> Tensor:
    """The formula, of the candidates of one window."""
    largest = values.max()
    weights = (1 - (largest - values) / (WITHIN * largest.abs() + torch.finfo(values.dtype).tiny)).clamp(min=0)
    return weights / weights.sum()


def windows(x: Tensor, like: Tensor, k: int, s: int, p: int, d: int) -> Iterator[tuple[tuple[int, ...], list[Any]]]:
    """Each place of the result `[batch, channels, h, w]`, and the places of the input that it is the largest of."""
    height, width = x.shape[-2:]
    for row, channel, i, j in itertools.product(*map(range, like.shape)):
        inside = [(i * s + u * d - p, j * s + v * d - p) for u in range(k) for v in range(k)]
        yield (row, channel, i, j), [(row, channel, a, b) for a, b in inside if 0 <= a < height and 0 <= b < width]


def values_with_ties(*shape: int) -> Tensor:
    """Whole thirds, some exactly and some nearly equal, zeros and negative ones among them."""
    x = (torch.randn(*shape, dtype=torch.float64) * 3).round() / 3
    return x + 1e-3 * torch.randn_like(x) * (torch.rand_like(x) < 0.5)


@pytest.mark.parametrize("form", ["total", "unit"])
@pytest.mark.parametrize("pool", POOLS)
def test_pool_by_hand(pool: str, form: str) -> None:
    torch.manual_seed(0)
    kernel, stride, padding, dilation, ceil, size = POOLS[pool]
    x = values_with_ties(2, 3, size, size)
    op = Op.eager(
        aten.max_pool2d.default, x, [kernel] * 2, [stride] * 2, [padding] * 2, [dilation] * 2, ceil, active=["self"]
    )
    R = torch.randn_like(op.output)
    R = torch.where(op.output == 0, 0.0, R)  # a value of 0 has no relevance in unit form
    relevance = total(R) if form == "total" else unit(torch.where(R == 0, 0.0, R / op.output))

    found = propagate(op, relevance, "near", within=WITHIN)["self"]

    want = torch.zeros_like(x)
    for place, inside in windows(x, R, kernel, stride, padding, dilation):
        for one, share in zip(inside, shares(torch.stack([x[at] for at in inside])), strict=True):
            want[one] += share * R[place]
    torch.testing.assert_close(found.tensor if form == "total" else found.tensor * x, want, rtol=1e-12, atol=1e-12)
    assert found.form == form


@pytest.mark.parametrize("form", ["total", "unit"])
@pytest.mark.parametrize(("target", "dims"), [(aten.amax.default, [1]), (aten.amin.default, [0, 2])])
def test_extreme_by_hand(target: Any, dims: list[int], form: str) -> None:
    torch.manual_seed(1)
    x = values_with_ties(4, 5, 3) + 7.0  # no zeros
    op = Op.eager(target, x, dims, False)
    R = torch.randn_like(op.output)

    found = propagate(op, total(R) if form == "total" else unit(R / op.output), "near", within=WITHIN)["self"]

    want = torch.zeros_like(x)
    kept = [dim for dim in range(3) if dim not in dims]
    for place in itertools.product(*(range(x.shape[dim]) for dim in kept)):
        at = tuple(place[kept.index(dim)] if dim in kept else slice(None) for dim in range(3))
        values = x[at].reshape(-1)
        largest = values.max() if target is aten.amax.default else values.min()
        weights = (1 - (largest - values).abs() / (WITHIN * largest.abs())).clamp(min=0)
        want[at] = (weights / weights.sum() * R[place]).reshape(x[at].shape)
    torch.testing.assert_close(found.tensor if form == "total" else found.tensor * x, want, rtol=1e-12, atol=1e-12)


ALL_POOLS = {
    1: (aten.max_pool1d.default, [3], [2], [1], [1], True),
    2: (aten.max_pool2d.default, [3, 2], [2, 1], [1, 0], [1, 2], False),
    3: (aten.max_pool3d.default, [2, 3, 2], [2, 2, 1], [0, 1, 1], [1, 1, 1], True),
}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dims", ALL_POOLS)
def test_where_nothing_comes_close_the_winner_has_all(dims: int, batched: bool) -> None:
    """In every number of dims, with a batch and without, at odd sizes, strides and borders."""
    torch.manual_seed(4)
    target, *args = ALL_POOLS[dims]
    sizes = [7, 6, 5][:dims]
    x = torch.randperm(2 * 3 * torch.Size(sizes).numel()).double().add(1).reshape(2, 3, *sizes)
    op = Op.eager(target, x if batched else x[0], *args, active=["self"])
    R = total(torch.randn_like(op.output))
    found, wanted = (propagate(op, R, rule, **options)["self"].tensor for rule, options in RULES.items())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


RULES: dict[str, dict[str, float]] = {"near": {"within": 1e-6}, "route": {}}


@pytest.mark.parametrize("target", [aten.max_pool2d.default, aten.amax.default])
def test_what_is_masked_takes_nothing_and_spoils_nothing(target: Any) -> None:
    """−∞ beside what wins; NaN stays where it is looked at."""
    x = torch.tensor([[[[3.0, -torch.inf, 2.99, 1.0], [1.0, 2.0, -torch.inf, 5.0]]]], dtype=torch.float64)
    args = ([2, 4],) if target is aten.max_pool2d.default else ([2, 3], True)
    op = Op.eager(target, x, *args, active=["self"])
    for relevance in (total(torch.ones_like(op.output)), unit(1 / op.output)):
        found = propagate(op, relevance, "near", within=0.6)["self"]
        R = found.tensor if found.form == "total" else torch.where(found.tensor == 0, 0.0, found.tensor * x)
        assert torch.equal(R == 0, torch.tensor([[[[False, True, False, True], [True, True, True, False]]]]))
        assert float(R.sum()) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_shares_among_equals(dtype: torch.dtype) -> None:
    x = torch.tensor([[[[2.0, 2.0, 1.0, 0.0]]]], dtype=dtype)
    op = Op.eager(aten.max_pool2d.default, x, [1, 4], active=["self"])
    found = propagate(op, total(torch.ones(1, 1, 1, 1)), "near")["self"].tensor
    assert found.tolist() == [[[[0.5, 0.5, 0.0, 0.0]]]]


def test_other_selections_are_as_before() -> None:
    x, R = torch.randn(2, 3), torch.randn(3, 2)
    found = propagate(Op.eager(aten.permute.default, x, [1, 0]), total(R), "near")["self"]
    assert torch.equal(found.tensor, R.T)


def test_nothing_comes_close_within_nothing() -> None:
    with pytest.raises(RuleError, match="above 0"):
        propagate(Op.eager(aten.amax.default, torch.randn(3), [0], False), total(torch.ones(())), "near", within=0.0)


class Small(nn.Module):
    """A pool between two convolutions, and the largest of what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
        self.pool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.pool(self.before(x).relu())).amax((2, 3))


def composite(within: float = WITHIN) -> lrp.Composite:
    near = lrp.Entry(("max pool", "extreme"), "near", {"within": within})
    return lrp.Composite("near", (near, *lrp.composites.epsilon().entries))


@pytest.fixture(scope="module")
def explainer() -> lrp.Explainer:
    torch.manual_seed(2)
    sizes = {
        "x": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=12), 3: torch.export.Dim("width", min=12)}
    }
    model = Small().double().eval()
    return lrp.compile(
        model, (torch.randn(2, 3, 16, 14, dtype=torch.float64),), composite=composite(), dynamic_shapes=sizes
    )


def test_books_close_at_open_sizes(explainer: lrp.Explainer) -> None:
    x = torch.randn(3, 3, 21, 18, dtype=torch.float64)
    explanation, absorbed = explainer(x), explainer.audit(x).absorbed
    held = float(explanation.relevance["x"].sum()) + sum(absorbed.values())
    assert held == pytest.approx(float(explanation.output.amax(1).sum()), rel=1e-10)


@pytest.mark.slow
def test_onnxruntime(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = Small().eval()
    sizes = {"x": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=12)}}
    explainer = lrp.compile(model, (torch.randn(2, 3, 16, 14),), composite=composite(), dynamic_shapes=sizes)
    explainer.to_onnx(tmp_path / "near.lrp.onnx")
    x = torch.randn(3, 3, 25, 14)
    found = lrp.OnnxExplainer(tmp_path / "near.lrp.onnx")(x.numpy()).relevance["x"]
    want = explainer(x).relevance["x"].numpy()
    assert np.abs(found - want).max() < 1e-5 * np.abs(want).max()


def test_no_jump_where_two_change_places() -> None:
    """All to the winner: half of the relevance jumps. Shared: it moves by the change over δ."""
    step = 1e-9
    lower, higher = (torch.tensor([[[[1.0, 1.0 + change, 0.2, 0.1]]]], dtype=torch.float64) for change in (-step, step))

    def explained(x: Tensor, rule: str, **options: Any) -> Tensor:
        op = Op.eager(aten.max_pool2d.default, x, [1, 4], active=["self"])
        return propagate(op, total(torch.ones_like(op.output)), rule, **options)["self"].tensor

    assert (explained(higher, "route") - explained(lower, "route")).abs().max() == 1.0
    moved = (explained(higher, "near", within=WITHIN) - explained(lower, "near", within=WITHIN)).abs().max()
    assert moved < 2 * step / WITHIN


def test_mistake_in_a_composite() -> None:
    with pytest.raises(LrpError, match="above 0"):
        lrp.compile(Small().eval(), (torch.randn(1, 3, 16, 16),), composite=composite(0.0))
