"""Values added at given places: a sum, of which every summand takes its share."""

from typing import Any

import pytest
import torch
from support.selection_cases import PLACES, ROWS, A, B, Call, tensor
from torch import Tensor

from lrp_compiler.rules import propagate, total, unit

aten = torch.ops.aten

CALLS: dict[str, Call] = {
    "scatter_add": Call(aten.scatter_add.default, (A, 1, PLACES, B), ("self", "src")),
    "scatter_add into a constant": Call(aten.scatter_add.default, (A, 1, PLACES, B), ("src",)),
    "scatter_add of a constant": Call(aten.scatter_add.default, (A, 1, PLACES, B), ("self",)),
    "scatter_add, same place twice": Call(aten.scatter_add.default, (A, -1, PLACES % 2, B), ("self", "src")),
    "scatter_add, source larger than its index": Call(
        aten.scatter_add.default, (A, 2, PLACES[:, :2, :2], B), ("self", "src")
    ),
    "index_put": Call(aten.index_put.default, (A, [None, ROWS], tensor(2, 3, 4), True), ("self", "values")),
    "index_put, broadcast": Call(aten.index_put.default, (A, [ROWS, ROWS], tensor(4), True), ("self", "values")),
    "index_put into a constant": Call(aten.index_put.default, (A, [None, ROWS], B, True), ("values",)),
}


def written(call: Call, name: str, value: Tensor) -> Tensor:
    """What the result holds of one operand alone."""
    source = 3 if call.target is aten.scatter_add.default else 2
    arguments = list(call.args)
    for place in (0, source):
        arguments[place] = value if (place == 0) == (name == "self") else torch.zeros_like(arguments[place])
    return call.target(*arguments)


@pytest.mark.parametrize("name", CALLS)
def test_in_the_limit_the_unit_form_takes_the_transpose(name: str) -> None:
    call = CALLS[name]
    op = call.op()
    g = tensor(*op.output_shape, seed=5)

    flow = propagate(op, unit(g), epsilon=0.0)

    for operand, relevance in flow.items():
        other = tensor(*op.shape(operand), seed=7)
        expected = (g * written(call, operand, other)).sum()
        torch.testing.assert_close((relevance.tensor * other).sum(), expected)


@pytest.mark.parametrize("name", CALLS)
def test_total_relevance_is_shared_in_proportion(name: str) -> None:
    call = CALLS[name]
    op = call.op()
    R, z = tensor(*op.output_shape, seed=5), op.output

    flow = propagate(op, total(R), epsilon=1e-9)

    for operand, relevance in flow.items():
        share = relevance.tensor * op.tensor(operand)
        expected = (written(call, operand, op.tensor(operand)) / z * R).sum()
        torch.testing.assert_close(share.sum(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", [unit, total])
@pytest.mark.parametrize("name", CALLS)
def test_the_books_balance(name: str, form: Any) -> None:
    call = CALLS[name]
    booked: list[float] = []
    op = call.op(absorb=lambda cause, share: booked.append(float(share.sum())))
    r = tensor(*op.output_shape, seed=5)

    flow = propagate(op, form(r))

    passed = sum(float((relevance.tensor * op.tensor(name)).sum()) for name, relevance in flow.items())
    arrived = float((r * op.output).sum() if form is unit else r.sum())
    assert passed + sum(booked) == pytest.approx(arrived, rel=1e-9)


PRODUCTS = [
    (active, include, index)
    for active in (("self", "src"), ("src",), ("self",))
    for include in (True, False)
    for index in (PLACES, PLACES % 2, PLACES[:, :2])
]


@pytest.mark.parametrize("form", [unit, total])
@pytest.mark.parametrize(("active", "include", "index"), PRODUCTS)
def test_every_factor_of_a_place_takes_the_same_share(
    active: tuple[str, ...], include: bool, index: Tensor, form: Any
) -> None:
    call = Call(aten.scatter_reduce.two, (A, 1, index, B, "prod"), active, {"include_self": include})
    booked: list[float] = []
    op = call.op(absorb=lambda cause, share: booked.append(float(share.sum())))
    r = tensor(*A.shape, seed=5)

    flow = propagate(op, form(r))

    R = r * op.output if form is unit else r
    expected = {"self": torch.zeros_like(A), "src": torch.zeros_like(B)}
    absorbed = 0.0
    for place in torch.cartesian_prod(*map(torch.arange, A.shape)).tolist():
        i, j, k = place
        sent = [(i, row, k) for row in range(index.shape[1]) if index[i, row, k] == j]
        factors = [("src", at) for at in sent] + ([("self", (i, j, k))] if include or not sent else [])
        factors = [(name, at) for name, at in factors if name in active]
        for name, at in factors:
            expected[name][at] += R[i, j, k] / len(factors)
        absorbed += 0.0 if factors else float(R[i, j, k])
    assert set(flow) == set(active)
    for name, relevance in flow.items():
        torch.testing.assert_close(relevance.total_of(lambda name=name: op.tensor(name)), expected[name])
    assert sum(booked) == pytest.approx(absorbed, abs=1e-12)
