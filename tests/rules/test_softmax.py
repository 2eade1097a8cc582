"""log Σ exp x is Σ p ⊙ x plus the entropy of p."""

from typing import Any

import pytest
import torch
from support.selection_cases import Call, tensor

from lrp_compiler.rules import Relevance, propagate, total, unit

X = 3 * tensor(2, 3, 4)
DIMS = pytest.mark.parametrize(("dims", "keepdim"), [([1], False), ([-1], True), ([0, 2], False), ([0, 2], True)])


@DIMS
def test_in_the_limit_it_is_the_gradient(dims: list[int], keepdim: bool) -> None:
    op = Call(torch.ops.aten.logsumexp.default, (X, dims, keepdim)).op()
    g = tensor(*op.output_shape, seed=5)

    flow = propagate(op, unit(g), epsilon=0.0)

    leaf = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad((torch.logsumexp(leaf, dims, keepdim) * g).sum(), leaf)
    torch.testing.assert_close(flow["self"].tensor, expected)


@DIMS
@pytest.mark.parametrize("form", [unit, total])
def test_the_entropy_is_absorbed(dims: list[int], keepdim: bool, form: Any) -> None:
    booked: dict[str, float] = {}
    call = Call(torch.ops.aten.logsumexp.default, (X, dims, keepdim))
    op = call.op(absorb=lambda cause, share: booked.update({cause: float(share.sum())}))
    relevance: Relevance = form(tensor(*op.output_shape, seed=5))

    flow = propagate(op, relevance)

    assert booked.keys() == {"stabiliser", "entropy"}
    arrived = op.total(relevance).sum() - (flow["self"].tensor * X).sum()
    assert sum(booked.values()) == pytest.approx(float(arrived), rel=1e-9)


def test_masked_elements_get_nothing() -> None:
    x = torch.tensor([[1.0, -torch.inf, 2.0]], dtype=torch.float64)
    op = Call(torch.ops.aten.logsumexp.default, (x, [1])).op()

    flow = propagate(op, unit(torch.ones(1, dtype=torch.float64)))

    assert flow["self"].tensor[0, 1] == 0
    assert flow["self"].tensor.isfinite().all()
