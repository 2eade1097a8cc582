"""Shape and indexing ops: what comes back is the transpose of what was selected."""

from typing import Any

import pytest
import torch
from support.selection_cases import CALLS, MASK, PLACES, WINNERS, A, B, Call, tensor
from torch import Tensor

from lrp_compiler.rules import OPERATORS, Op, find, propagate, total, unit

aten = torch.ops.aten


BEYOND_AUTOGRAD = ("scatter, source larger than its index",)
"""torch's own backward fails on these."""
ONE = torch.tensor([1])


def operands(call: Call) -> dict[str, Tensor]:
    op = call.op()
    return {name: op.arguments[name] for name in call.active}


def replaced(call: Call, values: dict[str, Tensor]) -> list[Any]:
    """The call's arguments, some tensors among them replaced by name."""

    def pick(value: Any, name: str) -> Any:
        if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
            return [pick(item, f"{name}.{index}") for index, item in enumerate(value)]
        return values.get(name, value)

    names = [argument.name for argument in call.target._schema.arguments]
    return [pick(arg, name) for arg, name in zip(call.args, names, strict=False)]


def apply(call: Call, replaced: dict[str, Tensor]) -> Tensor:
    """The op on other values for the active operands; all else that is a float is zero."""

    def zeroed(value: Any, name: str) -> Any:
        if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
            return [zeroed(item, f"{name}.{index}") for index, item in enumerate(value)]
        if name in replaced:
            return replaced[name]
        return torch.zeros_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    names = [argument.name for argument in call.target._schema.arguments]
    return call.target(*(zeroed(arg, name) for arg, name in zip(call.args, names, strict=False)), **call.kwargs)


def test_every_registered_selection_is_tried_here() -> None:
    registered = {target for target, entries in OPERATORS.items() if any(e.family == "selection" for e in entries)}

    assert registered == {call.target for call in (*CALLS.values(), *WINNERS.values())}


@pytest.mark.parametrize("form", [unit, total])
@pytest.mark.parametrize("name", CALLS)
def test_relevance_takes_the_transpose_of_the_selection(name: str, form: Any) -> None:
    call = CALLS[name]
    r = tensor(*call.op().output_shape, seed=5)

    flow = propagate(call.op(), form(r))

    others = {key: tensor(*value.shape, seed=11 + index) for index, (key, value) in enumerate(operands(call).items())}
    assert flow.keys() == others.keys()
    assert all(flow[key].tensor.shape == value.shape for key, value in others.items())
    assert all(relevance.form == form(r).form for relevance in flow.values())
    arrived = sum(float((flow[key].tensor * value).sum()) for key, value in others.items())
    assert arrived == pytest.approx(float((r * apply(call, others)).sum()), abs=1e-12)


@pytest.mark.parametrize("form", [unit, total])
@pytest.mark.parametrize("name", [name for name in (*CALLS, *WINNERS) if name not in BEYOND_AUTOGRAD])
def test_the_transpose_is_that_of_autograd(name: str, form: Any) -> None:
    call = (CALLS | WINNERS)[name]
    op = call.op()
    r = tensor(*op.output_shape, seed=5)

    flow = propagate(op, form(r))

    leaves = {key: value.clone().requires_grad_() for key, value in operands(call).items()}
    arguments = replaced(call, leaves)
    expected = torch.autograd.grad((call.target(*arguments, **call.kwargs) * r).sum(), list(leaves.values()))
    assert list(flow) == list(leaves)
    for relevance, gradient in zip(flow.values(), expected, strict=True):
        torch.testing.assert_close(relevance.tensor, gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize("keepdim", [False, True])
def test_of_equal_extremes_the_first_takes_all(keepdim: bool) -> None:
    r = tensor(2, 1) if keepdim else tensor(2)

    flow = propagate(Op.eager(aten.amax.default, torch.ones(2, 3, dtype=torch.float64), [1], keepdim), total(r))

    assert torch.equal(flow["self"].tensor, torch.eye(3, dtype=torch.float64)[0] * r.reshape(2, 1))


def test_of_two_equal_operands_the_first_takes_all() -> None:
    flow = propagate(Op.eager(aten.minimum.default, A, A.clone(), active=("self", "other")), total(B))

    assert torch.equal(flow["self"].tensor, B)
    assert not flow["other"].tensor.any()


def test_of_equal_winners_the_first_takes_all() -> None:
    x = torch.zeros(1, 1, 2, 2)

    flow = propagate(Op.eager(aten.max_pool2d.default, x, [2, 2]), total(torch.ones(1, 1, 1, 1)))

    assert torch.equal(flow["self"].tensor, torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]))


@pytest.mark.parametrize(
    ("call", "share"),
    [
        (Call(aten.cat.default, ([A, B], 1), ("tensors.0",)), lambda r: float((r[:, 3:] * B).sum())),
        (Call(aten.stack.default, ([A, B], 1), ("tensors.0",)), lambda r: float((r[:, 1] * B).sum())),
        (Call(aten.where.self, (MASK, A, B), ("self",)), lambda r: float((r * ~MASK * B).sum())),
        (
            Call(aten.where.self, (MASK, A, torch.tensor(3.0, dtype=torch.float64)), ("self",)),
            lambda r: float((3 * r * ~MASK).sum()),
        ),
        (Call(aten.masked_fill.Scalar, (A, MASK, 3.0)), lambda r: float((3 * r * MASK).sum())),
        (Call(aten.constant_pad_nd.default, (A, [0, 2], 3.0)), lambda r: float((3 * r[..., 4:]).sum())),
        (Call(aten.constant_pad_nd.default, (A, [0, 2])), lambda r: 0.0),
        (
            Call(aten.masked_fill.Tensor, (A, MASK, torch.tensor(3.0, dtype=torch.float64))),
            lambda r: float((3 * r * MASK).sum()),
        ),
        (Call(aten.scatter.value, (A, 1, PLACES[:, :1], 3.0)), lambda r: float(3 * r.gather(1, PLACES[:, :1]).sum())),
        (
            Call(aten.scatter.src, (A, 1, PLACES[:, :2], B)),
            lambda r: float((r.gather(1, PLACES[:, :2]) * B[:, :2]).sum()),
        ),
        (Call(aten.index_put.default, (A, [None, ONE], B[:, :1])), lambda r: float((r[:, 1] * B[:, 0]).sum())),
        (Call(aten.maximum.default, (A, B)), lambda r: float((r * (A < B) * B).sum())),
        (Call(aten.clamp.default, (A, 0.5, 1.0)), lambda r: float((r * ((A < 0.5) * 0.5 + (A > 1.0))).sum())),
    ],
    ids=[
        "cat",
        "stack",
        "where",
        "where, broadcast",
        "masked_fill",
        "pad",
        "pad by 0",
        "masked_fill by a tensor",
        "scatter of a number",
        "scatter",
        "index_put",
        "maximum",
        "clamp",
    ],
)
def test_what_lands_on_a_constant_is_booked(call: Call, share: Any) -> None:
    r = tensor(*call.op().output_shape, seed=5)
    booked: list[float] = []

    propagate(call.op(absorb=lambda cause, absorbed: booked.append(float(absorbed.sum()))), unit(r))

    assert sum(booked) == pytest.approx(share(r), abs=1e-12)


def test_a_padding_that_mirrors_is_no_constant_border() -> None:
    op = Op.eager(aten.pad.default, A, [1, 1], "reflect")

    assert find(op) is None
