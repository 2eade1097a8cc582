"""Regions in which a value decides about itself are one function of it, where differences are explained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.assign.fuse_decided import fuse_decided
from lrp_compiler.passes.graph import TWIN, Declined
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.simplify import simplify
from lrp_compiler.rules import FUNCTION

X = torch.randn(2, 3)


def tried(function: Callable, graph_of: Callable) -> tuple[dict[str, str], list[Declined]]:
    """Root → end of every region; and what was let be."""
    forward = simplify(graph_of(function, X)).graph_module
    mark_active(forward, [node.meta["input"] for node in forward.graph.find_nodes(op="placeholder")])
    varying = set(forward.graph.find_nodes(op="placeholder"))
    for node in forward.graph.nodes:
        if node in varying or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
            node.meta[TWIN] = node.name
    declined = fuse_decided(forward)
    ends = {node: assignment(node) for node in forward.graph.nodes}
    found = {given.arguments["self"].name: node for node, given in ends.items() if given and given.target == FUNCTION}
    return {root: str(node.target).removeprefix("aten.") for root, node in found.items()}, declined


@pytest.mark.parametrize(
    ("function", "end"),
    [
        (lambda x: torch.where(x > 0, x, 0.2 * x), "where.self"),
        (lambda x: torch.where(~((x < 1) & (x > -1)), x * 2, x.sin()), "where.self"),
        (lambda x: x.masked_fill(x < 0, 0.5), "masked_fill.Scalar"),
        (lambda x: x * (x > 0.1), "mul.Tensor"),
        (lambda x: (x.abs() > 1).to(x.dtype) * x, "mul.Tensor"),
        (lambda x: x.sign().detach() * x.sqrt() * (x.round() == 0), "mul.Tensor"),
    ],
)
def test_a_choice_by_the_chosen_is_one_function(function: Callable, end: str, graph_of: Callable) -> None:
    found, _ = tried(function, graph_of)
    assert found == {"args_0": end}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.where(x.sum(1, keepdim=True) > 0, x, 0.2 * x),  # of the whole row
        lambda x: x * (x.flip(1) > 0),  # of another place
        lambda x: torch.where(torch.ones(2, 3) > 0.5, x, 0.2 * x),  # of nothing that varies
        lambda x: functional.gelu(x),
        lambda x: x * 2 + x.relu(),
    ],
)
def test_other_choices_stay_what_they_are(function: Callable, graph_of: Callable) -> None:
    found, declined = tried(function, graph_of)
    assert not found
    assert not declined


@pytest.mark.parametrize("value", [-torch.inf, -1e9, torch.finfo(torch.float32).min])
def test_what_a_mask_puts_in_is_no_function_s_value(value: float, graph_of: Callable) -> None:
    found, declined = tried(lambda x: x.masked_fill(x == 0, value).softmax(-1), graph_of)
    assert not found
    assert "a mask's value" in declined[0][1]


class Decides(nn.Module):
    """A linear layer, what is asked about, another layer."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(12, 12), middle, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)).flatten(1))


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "prelu": nn.PReLU(12, init=0.3),
    "hardshrink": lambda h: functional.hardshrink(h, 0.3),
    "threshold": lambda h: functional.threshold(h, 0.1, 0.7),
    "where": lambda h: torch.where(h > 0.2, h, h**2),
    "masked_fill": lambda h: h.masked_fill(h < 0, -0.5),
    "times mask": lambda h: h * (h.abs() > 0.3),
    "whole numbers": lambda h: torch.where(h.round() > 0, h.sin(), h),
    "max of a dim": lambda h: h.view(-1, 3, 4).max(1)[0],
    "min of a dim": lambda h: h.view(-1, 3, 4).min(2, keepdim=True).values,
    "adaptive max pool": lambda h: functional.adaptive_max_pool1d(h[:, None], 5),
    "adaptive max pool, 2 dims": lambda h: functional.adaptive_max_pool2d(h.view(-1, 1, 3, 4), (2, 3)),
    "max pool with indices": lambda h: functional.max_pool1d(h[:, None], 2, return_indices=True)[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decided_otherwise_at_the_reference_adds_up(kind: str) -> None:
    torch.manual_seed(0)
    x, there = torch.randn(5, 12, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    model = Decides(KINDS[kind]).double()
    model(x)
    options: dict[str, Any] = {"composite": "reference", "target": 1}

    explainer = lrp.compile(model.eval(), (x,), **options)

    with torch.no_grad():
        change = (model(x) - model(there))[:, 1]
    torch.testing.assert_close(explainer(x, reference=there).relevance["x"].sum(1), change, rtol=0, atol=1e-12)
    books = explainer.audit(x, reference=there)
    assert all(abs(share) <= 1e-12 for share in books.absorbed.values())
    assert not books.suspects(1e-12)


def test_masked_scores_of_their_own_stay_finite() -> None:
    """Scores that are 0 do not count: at x one, at the reference another."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.masked_fill(x == 0, -torch.inf).softmax(-1) * x).sum(1, keepdim=True)

    x, there = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.0, 1.5, 2.0]])

    found = lrp.compile(Net().eval(), (x,), composite="reference", target=0)(x, reference=there).relevance["x"]

    assert torch.isfinite(found).all()


POLES: dict[str, tuple[Callable[[Tensor], Tensor], list[float], list[float]]] = {
    "log, clamp": (lambda h: h.log().clamp(min=-3), [1, 2, 3], [0, 0, 0]),
    "log, scaled, sine": (lambda h: (h.log() * 0.3 + 1).clamp(min=-1).sin(), [1, 2, 3], [0, 0.5, 0]),
    "logit, tanh": (lambda h: torch.logit(h).tanh(), [0.2, 0.5, 0.9], [0, 0.7, 0]),
    "1/x, tanh": (lambda h: (1 / h).tanh(), [1, 2, -3], [0, 0, 0]),
    "1/√x, clamp": (lambda h: h.rsqrt().clamp(max=5), [1, 2, 3], [0, 4, 0]),
    "log1p, exp": (lambda h: h.log1p().exp(), [0.3, 1, 2], [-1, -1, 2]),
    "masked by −∞, exp": (lambda h: h.masked_fill(h < 0, -torch.inf).exp(), [1, -1, 2], [-1, 1.5, 1]),
    "masked by −∞, relu": (lambda h: h.masked_fill(h < 0, -torch.inf).relu(), [1, -1, 2], [-1, 1.5, 1]),
    "masked by +∞, clamp": (lambda h: h.masked_fill(h < 0, torch.inf).clamp(max=2), [1, -1, 2], [-1, 1.5, 1]),
    "masked by −1e9, sigmoid": (lambda h: (h + (h < 0) * -1e9).sigmoid(), [1, -1, 2], [-1, 1.5, 1]),
    "infinite ones replaced": (lambda h: (1 / h).masked_fill((1 / h).isinf(), 0.5), [1, 0, 2], [-1, 1.5, 0]),
}


@pytest.mark.parametrize("kind", POLES)
def test_what_is_made_of_a_value_that_is_infinite_at_one_end_adds_up(kind: str, tmp_path: Path) -> None:
    function, here, there = POLES[kind]

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x).sum(1, keepdim=True)

    x, reference = (torch.tensor([values], dtype=torch.float64) for values in (here, there))
    explainer = lrp.compile(Net().eval(), (x,), composite="reference", target=0)

    found = explainer(x, reference=reference).relevance["x"]

    # Element by element: each is what its own place changes.
    torch.testing.assert_close(found, function(x) - function(reference), rtol=1e-12, atol=1e-12)
    books = explainer.audit(x, reference=reference)
    assert abs(books.error) <= 1e-12
    assert not any(books.absorbed.values())
    explainer.save(tmp_path / "m.lrp.pt2")
    assert torch.equal(lrp.load(tmp_path / "m.lrp.pt2")(x, reference=reference).relevance["x"], found)


THROUGH_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda h: torch.where((h > 0).view(-1, 2, 3), h.view(-1, 2, 3), 0.2 * h.view(-1, 2, 3)),
    "the mask's first": lambda h: (h < 0).view(-1, 2, 3).to(h.dtype) * -0.5 + h.view(-1, 2, 3).sin() * 2,
    "masked by −∞": lambda h: h.view(-1, 2, 3).masked_fill((h < 0).view(-1, 2, 3), -torch.inf).exp(),
    "masked by −1e9": lambda h: (h.view(-1, 2, 3) + ((1 - (h > 0).to(h.dtype)) * -1e9).view(-1, 2, 3)).sigmoid(),
    "transposed": lambda h: h.T.masked_fill((h < 0).T, -1e9).exp().T,
    "a dim more": lambda h: h[:, None].masked_fill((h < 0).unsqueeze(1), -1e9).relu(),
    "spread": lambda h: h[:, None].expand(-1, 2, -1) * (h > 0)[:, None].expand(-1, 2, -1),
    "a part": lambda h: torch.where(h[:, 1:] > 0, h[:, 1:], 0.5) + (h > 1)[:, 1:] * h[:, 1:],
    "two views": lambda h: h.view(-1, 2, 3).mT.masked_fill((h < 0).view(-1, 2, 3).mT, 0.7),
}


@pytest.mark.parametrize("kind", THROUGH_VIEWS)
@pytest.mark.parametrize("is_open", [False, True])
def test_a_mask_through_a_view_is_one_through_none(kind: str, is_open: bool) -> None:
    """Each place takes what the output changes by when it alone is moved to its reference."""
    function = THROUGH_VIEWS[kind]

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x).flatten(1).sum(1, keepdim=True)

    x, reference = (
        torch.tensor(values, dtype=torch.float64)
        for values in (
            [[1.0, -1, 2, 0.5, -0.3, 0.7], [0.1, 0.2, -2, 3, 1, -1]],
            [[-1.0, 1.5, 1, 0.2, 0.4, -0.9], [1, -0.2, 2, -3, 1, 2]],
        )
    )
    net, shapes = Net().eval(), ({0: torch.export.Dim("batch")},) if is_open else None
    explainer = lrp.compile(net, (x,), composite="reference", target=0, dynamic_shapes=shapes)

    found = explainer(x, reference=reference).relevance["x"]

    for place in range(6):
        moved = x.clone()
        moved[:, place] = reference[:, place]
        torch.testing.assert_close(found[:, place], (net(x) - net(moved))[:, 0], rtol=1e-12, atol=1e-12)
    books = explainer.audit(x, reference=reference)
    assert abs(books.error) <= 1e-12
    assert all(abs(share) <= 1e-12 for share in books.absorbed.values())


def test_a_view_that_comes_later_is_no_root(graph_of: Callable) -> None:
    found, _ = tried(lambda x: x.sin().T * (x > 0).T + x.T, graph_of)
    assert "args_0" not in found


def test_functions_that_are_finite_stay_by_themselves(graph_of: Callable) -> None:
    """Their slopes at near ends are derivatives."""
    found, declined = tried(lambda x: (1 + (-x).exp()).sqrt().tanh() * x, graph_of)
    assert not found
    assert not declined
