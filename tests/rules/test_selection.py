"""Shape and indexing ops: what comes back is the transpose of what was selected."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lrp_compiler.rules import OPERATORS, Op, find, propagate, total, unit

aten = torch.ops.aten


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Call(NamedTuple):
    """A call; `active` names the operands that carry relevance."""

    target: Any
    args: tuple[Any, ...]
    active: tuple[str, ...] = ("self",)
    kwargs: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple default that nobody changes

    def op(self, **books: Any) -> Op:
        op = Op.eager(self.target, *self.args, active=self.active, **self.kwargs)
        return Op(self.target, op.arguments, op.output, fetch=lambda handle: handle, active=self.active, **books)


A, B = tensor(2, 3, 4), tensor(2, 3, 4, seed=1)
MASK = torch.tensor([[True, False, True, False]])
ROWS, COLUMNS = torch.tensor([1, 0, 1]), torch.tensor([2, 2, 0])

CALLS: dict[str, Call] = {
    "view": Call(aten.view.default, (A, [6, 4])),
    "view, size inferred": Call(aten.view.default, (A, [2, -1])),
    "_unsafe_view": Call(aten._unsafe_view.default, (A, [24])),
    "reshape": Call(aten.reshape.default, (A.transpose(0, 1), [2, -1])),
    "_reshape_copy": Call(aten._reshape_copy.default, (A, [4, 6])),
    "flatten": Call(aten.flatten.using_ints, (A, 1)),
    "flatten, negative dims": Call(aten.flatten.using_ints, (A, -3, -2)),
    "unflatten": Call(aten.unflatten.int, (A, -1, [2, -1])),
    "squeeze of all": Call(aten.squeeze.default, (tensor(1, 3, 1, 2),)),
    "squeeze of dims": Call(aten.squeeze.dims, (tensor(1, 3, 1, 2), [0, -2])),
    "squeeze": Call(aten.squeeze.dim, (tensor(2, 1, 3), 1)),
    "squeeze, negative dim": Call(aten.squeeze.dim, (tensor(2, 3, 1), -1)),
    "squeeze of a longer dim": Call(aten.squeeze.dim, (A, 1)),
    "unsqueeze": Call(aten.unsqueeze.default, (A, 1)),
    "unsqueeze at the end": Call(aten.unsqueeze.default, (A, -1)),
    "permute": Call(aten.permute.default, (A, [2, 0, 1])),
    "permute, negative dims": Call(aten.permute.default, (A, [-1, 0, -2])),
    "transpose": Call(aten.transpose.int, (A, 0, 2)),
    "transpose, negative dims": Call(aten.transpose.int, (A, -1, -3)),
    "t": Call(aten.t.default, (tensor(2, 5),)),
    "t of a vector": Call(aten.t.default, (tensor(5),)),
    "numpy_T": Call(aten.numpy_T.default, (tensor(2, 5),)),
    "numpy_T of three dims": Call(aten.numpy_T.default, (A,)),
    "expand": Call(aten.expand.default, (tensor(2, 1, 4), [2, 3, 4])),
    "expand, sizes kept": Call(aten.expand.default, (tensor(2, 1, 4), [-1, 3, -1])),
    "expand to more dims": Call(aten.expand.default, (tensor(1, 4), [5, 3, 4])),
    "repeat": Call(aten.repeat.default, (tensor(2, 3), [2, 3])),
    "repeat to more dims": Call(aten.repeat.default, (tensor(2, 3), [2, 1, 3])),
    "slice": Call(aten.slice.Tensor, (A, 1, 1, 3)),
    "slice, default dim": Call(aten.slice.Tensor, (A,)),
    "slice, negative dim and start": Call(aten.slice.Tensor, (A, -1, -3, -1)),
    "slice, no start": Call(aten.slice.Tensor, (A, 2, None, 2)),
    "slice, no end": Call(aten.slice.Tensor, (A, 2, 2)),
    "slice, end beyond": Call(aten.slice.Tensor, (A, 2, 1, 1 << 62)),
    "slice, start before": Call(aten.slice.Tensor, (A, 2, -9, 2)),
    "slice, stepped": Call(aten.slice.Tensor, (tensor(2, 9), 1, 1, 8, 3)),
    "slice, stepped, negative": Call(aten.slice.Tensor, (tensor(9, 2), -2, -8, None, 2)),
    "slice, empty": Call(aten.slice.Tensor, (A, 2, 3, 3)),
    "select": Call(aten.select.int, (A, 1, 2)),
    "select, negative": Call(aten.select.int, (A, -1, -2)),
    "select, first": Call(aten.select.int, (A, 0, 0)),
    "cat": Call(aten.cat.default, ([A, B], 1), ("tensors.0", "tensors.1")),
    "cat, negative dim": Call(aten.cat.default, ([A, tensor(2, 3, 2), B], -1), ("tensors.0", "tensors.1", "tensors.2")),
    "cat with a constant": Call(aten.cat.default, ([A, B, tensor(1, 3, 4)],), ("tensors.2", "tensors.0")),
    "cat with an empty tensor": Call(
        aten.cat.default, ([torch.zeros(0, dtype=torch.float64), A, B], 1), ("tensors.1", "tensors.2")
    ),
    "stack": Call(aten.stack.default, ([A, B],), ("tensors.0", "tensors.1")),
    "stack, negative dim": Call(aten.stack.default, ([A, B, A + 1], -1), ("tensors.0", "tensors.1", "tensors.2")),
    "stack, inner dim": Call(aten.stack.default, ([A, B], 2), ("tensors.1",)),
    "flip": Call(aten.flip.default, (A, [0, -1])),
    "roll": Call(aten.roll.default, (A, [1, -2], [0, -1])),
    "roll of all": Call(aten.roll.default, (A, [5])),
    "pad": Call(aten.constant_pad_nd.default, (A, [1, 2, 0, 3])),
    "pad, cropping": Call(aten.constant_pad_nd.default, (A, [-1, 2, 1, -1])),
    "pad by mode": Call(aten.pad.default, (A, [1, 2])),
    "index": Call(aten.index.Tensor, (A, [ROWS])),
    "index, two": Call(aten.index.Tensor, (A, [ROWS, COLUMNS])),
    "index, negative": Call(aten.index.Tensor, (A, [ROWS - 1])),
    "index, second dim": Call(aten.index.Tensor, (A, [None, COLUMNS])),
    "index, first and last": Call(aten.index.Tensor, (A, [ROWS, None, COLUMNS])),
    "index, broadcast": Call(aten.index.Tensor, (A, [ROWS[:2, None], COLUMNS[None]])),
    "index_select": Call(aten.index_select.default, (A, 1, COLUMNS)),
    "index_select, negative dim": Call(aten.index_select.default, (A, -1, COLUMNS)),
    "gather": Call(aten.gather.default, (A, 2, torch.tensor([[[0, 0], [3, 1], [2, 2]]] * 2))),
    "gather, negative dim": Call(aten.gather.default, (A, -2, torch.tensor([[[0, 2, 2, 1]]]))),
    "where": Call(aten.where.self, (MASK, A, B), ("self", "other")),
    "where, broadcast": Call(aten.where.self, (A > 0, tensor(3, 1), tensor(4)), ("self", "other")),
    "where, one active": Call(aten.where.self, (MASK, A, torch.zeros((), dtype=torch.float64)), ("self",)),
    "where, other active": Call(aten.where.self, (MASK, torch.zeros((), dtype=torch.float64), A), ("other",)),
    "masked_fill": Call(aten.masked_fill.Scalar, (A, MASK, 0.0)),
    "masked_fill, broadcast": Call(aten.masked_fill.Scalar, (tensor(1, 4), A[0] > 0, 0.0)),
    "masked_fill by a tensor": Call(aten.masked_fill.Tensor, (A, MASK, torch.zeros((), dtype=torch.float64))),
}
MAX_POOLS: dict[str, Call] = {
    "max_pool1d": Call(aten.max_pool1d.default, (tensor(2, 3, 9), [3], [2], [1])),
    "max_pool1d, dilated, ceiled": Call(aten.max_pool1d.default, (tensor(2, 3, 10), [2], [3], [0], [2], True)),
    "max_pool2d": Call(aten.max_pool2d.default, (tensor(2, 3, 6, 6), [2, 2])),
    "max_pool2d, overlapping": Call(aten.max_pool2d.default, (tensor(2, 3, 7, 6), [3, 2], [2, 1], [1, 1])),
    "max_pool2d, ceiled": Call(aten.max_pool2d.default, (tensor(1, 2, 7, 8), [3, 3], [2, 2], [0, 0], [1, 1], True)),
    "max_pool2d, stride beyond the kernel": Call(aten.max_pool2d.default, (tensor(1, 2, 8, 8), [2, 2], [3, 3])),
    "max_pool3d": Call(aten.max_pool3d.default, (tensor(1, 2, 4, 5, 6), [2, 2, 3], [2, 2, 2], [1, 0, 1])),
}


def operands(call: Call) -> dict[str, Tensor]:
    op = call.op()
    return {name: op.arguments[name] for name in call.active}


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

    assert registered == {call.target for call in (*CALLS.values(), *MAX_POOLS.values())}


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


@pytest.mark.parametrize("name", MAX_POOLS)
def test_the_winner_of_a_window_takes_its_relevance(name: str) -> None:
    call = MAX_POOLS[name]
    (x,) = operands(call).values()
    r = tensor(*call.op().output_shape, seed=5)

    flow = propagate(call.op(), unit(r))

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((apply(call, {"self": leaf}) * r).sum(), leaf)
    torch.testing.assert_close(flow["self"].tensor, expected)


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
    ],
    ids=["cat", "stack", "where", "where, broadcast", "masked_fill", "pad", "pad by 0"],
)
def test_what_lands_on_a_constant_is_booked(call: Call, share: Any) -> None:
    r = tensor(*call.op().output_shape, seed=5)
    booked: list[float] = []

    propagate(call.op(absorb=lambda cause, absorbed: booked.append(float(absorbed.sum()))), unit(r))

    assert sum(booked) == pytest.approx(share(r), abs=1e-12)


def test_a_padding_that_mirrors_is_no_constant_border() -> None:
    op = Op.eager(aten.pad.default, A, [1, 1], "reflect")

    assert find(op) is None
