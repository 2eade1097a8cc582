"""Products of many elements: each factor takes the same share of what its products get."""

from typing import Any

import pytest
import torch
from support.selection_cases import Call, tensor
from torch import Tensor

from lrp_compiler.rules import propagate, total, unit

aten = torch.ops.aten
A = tensor(2, 3, 4)
CALLS: dict[str, Call] = {
    "along a dim": Call(aten.prod.dim_int, (A, 1)),
    "kept dim": Call(aten.prod.dim_int, (A, -1, True)),
    "of all": Call(aten.prod.default, (A,)),
    "of a single number": Call(aten.prod.default, (tensor(),)),
    "of a number, along a dim": Call(aten.prod.dim_int, (tensor(), 0)),
    "with zeros": Call(aten.prod.dim_int, (A.round(), 1)),
    "of nothing": Call(aten.prod.dim_int, (torch.zeros(2, 0, dtype=torch.float64), 1)),
    "running": Call(aten.cumprod.default, (A, 1)),
    "running, last dim": Call(aten.cumprod.default, (A, -1)),
    "running over a number": Call(aten.cumprod.default, (tensor(), 0)),
}


def factors(call: Call) -> Tensor:
    """`[results, elements]`: which elements are factors of which result: a zero there makes it zero."""
    ones = torch.ones_like(call.args[0])
    rows = []
    for place in range(ones.numel()):
        changed = ones.clone()
        changed.view(-1)[place] = 0
        rows.append(call.target(changed, *call.args[1:]).flatten() == 0)
    return torch.stack(rows, 1) if rows else torch.zeros(call.op().output.numel(), 0, dtype=torch.bool)


@pytest.mark.parametrize("form", [unit, total])
@pytest.mark.parametrize("name", CALLS)
def test_every_factor_takes_the_same_share(name: str, form: Any) -> None:
    call = CALLS[name]
    booked: list[float] = []
    op = call.op(absorb=lambda cause, share: booked.append(float(share.sum())))
    r = tensor(*op.output_shape, seed=5)

    flow = propagate(op, form(r))

    R = (r * op.output if form is unit else r).flatten()
    of = factors(call).to(R.dtype)
    count = of.sum(1, keepdim=True)
    expected = (R.unsqueeze(1) * of / count.clamp(min=1)).sum(0).reshape(op.shape("self"))
    assert flow["self"].form == "total"
    torch.testing.assert_close(flow["self"].tensor, expected)
    assert sum(booked) == pytest.approx(float(R[count.squeeze(1) == 0].sum()))
