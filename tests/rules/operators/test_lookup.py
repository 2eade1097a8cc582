"""Tables looked up by integers: the index takes what came of the elements that it named."""

from typing import Any

import pytest
import torch
from support.selection_cases import Call, tensor
from torch import Tensor

from lrp_compiler.rules import Op, propagate, total, unit

aten = torch.ops.aten

T = tensor(4, 3, 5)
ROWS, COLUMNS = torch.tensor([[0, 3], [2, 2]]), torch.tensor([[1, 0], [2, -1]])
CALLS: dict[str, Call] = {
    "embedding": Call(aten.embedding.default, (T[:, 0], ROWS), ("indices",)),
    "index": Call(aten.index.Tensor, (T, [ROWS]), ("indices.0",)),
    "index of another dim": Call(aten.index.Tensor, (T, [None, COLUMNS]), ("indices.1",)),
    "two indices": Call(aten.index.Tensor, (T, [ROWS, COLUMNS]), ("indices.0", "indices.1")),
    "two indices, one of them a constant": Call(aten.index.Tensor, (T, [ROWS, COLUMNS]), ("indices.1",)),
    "two indices apart": Call(aten.index.Tensor, (T, [ROWS, None, COLUMNS]), ("indices.0", "indices.2")),
    "two indices behind": Call(aten.index.Tensor, (T, [None, COLUMNS, ROWS]), ("indices.1", "indices.2")),
    "indices that are broadcast": Call(aten.index.Tensor, (T, [ROWS[:, :1], COLUMNS[:1]]), ("indices.0", "indices.1")),
    "an index of fewer dims": Call(aten.index.Tensor, (T, [ROWS, COLUMNS[0]]), ("indices.0", "indices.1")),
    "index_select": Call(aten.index_select.default, (T, 1, COLUMNS[0]), ("index",)),
    "index_select, negative dim": Call(aten.index_select.default, (T, -1, ROWS[0]), ("index",)),
    "gather": Call(aten.gather.default, (T[0], 1, ROWS[:, :1]), ("index",)),
}


def by_hand(call: Call, R: Tensor) -> dict[str, Tensor]:
    """The elements of the result that change when a single index does: those that it named."""
    numbers = torch.arange(call.args[0].numel()).reshape(call.args[0].shape)
    op = call.op()
    shares = {}
    for name in call.active:
        index = op.arguments[name]
        shares[name] = torch.zeros(index.shape, dtype=R.dtype)
        for at in range(index.numel()):
            moved = index.clone()
            moved.view(-1)[at] = (moved.view(-1)[at] + 1) % 3
            named = looked_up(call, numbers, {}) != looked_up(call, numbers, {name: moved})
            shares[name].view(-1)[at] = R[named].sum() / len(call.active)
    return shares


def looked_up(call: Call, table: Tensor, other: dict[str, Tensor]) -> Tensor:
    """The call's result with another table, and other indices by name."""

    def swap(value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [swap(item, f"{name}.{place}") for place, item in enumerate(value)]
        return other.get(name, value)

    names = [argument.name for argument in call.target._schema.arguments]
    return call.target(table, *(swap(arg, name) for arg, name in zip(call.args[1:], names[1:], strict=False)))


@pytest.mark.parametrize("form", [unit, total])
@pytest.mark.parametrize("name", CALLS)
def test_an_index_takes_what_it_named(name: str, form: Any) -> None:
    call = CALLS[name]
    op = call.op()
    r = tensor(*op.output_shape, seed=5)

    flow = propagate(op, form(r))

    expected = by_hand(call, r * op.output if form is unit else r)
    assert set(flow) == set(expected)
    for operand, share in expected.items():
        assert flow[operand].form == "total"
        torch.testing.assert_close(flow[operand].tensor, share)


@pytest.mark.parametrize("name", CALLS)
def test_the_tables_own_relevance_is_asked_for_as_well(name: str) -> None:
    call = CALLS[name]
    table = next(argument.name for argument in call.target._schema.arguments)
    op = Op.eager(call.target, *call.args, active=call.active, wanted=(table,))
    r = tensor(*op.output_shape, seed=5)

    flow = propagate(op, unit(r))

    leaf = call.args[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((call.target(leaf, *call.args[1:]) * r).sum(), leaf)
    torch.testing.assert_close(flow[table].tensor, gradient * leaf.detach())
