"""Values chosen by a mask: where it is not set, they come from elsewhere."""

from __future__ import annotations

import torch

from lrp_compiler.rules.op import Op
from lrp_compiler.rules.selection import FILLED, Masked, Selection, selection
from lrp_compiler.rules.traits import declare, keeps_sign

aten = torch.ops.aten

declare(aten.where.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf, chooses=True)


@selection(aten.where.self, sign=keeps_sign(), chooses=True, picks_by=("condition",))
def where(op: Op) -> Selection:
    """One of two values, by a mask."""
    return {
        "self": Masked(lambda: op.tensor("condition"), lambda: op.shape("self")),
        "other": Masked(lambda: ~op.tensor("condition"), lambda: op.shape("other")),
    }


@selection(aten.masked_fill.Scalar, sign=keeps_sign("self", "value"), chooses=True, picks_by=("mask",))
def masked_fill(op: Op) -> Selection:
    """A constant where the mask says so; the rest is kept."""
    return {"self": _unmasked(op), FILLED: lambda r: r * op.tensor("mask").to(r.dtype)}


@selection(aten.masked_fill.Tensor, sign=keeps_sign(), chooses=True, picks_by=("mask",))
def masked_fill_by_tensor(op: Op) -> Selection:
    """A value, perhaps an activation, where the mask says so; the rest is kept."""
    return {
        "self": _unmasked(op),
        "value": Masked(lambda: op.tensor("mask"), lambda: op.shape("value")),
    }


def _unmasked(op: Op) -> Masked:
    return Masked(lambda: ~op.tensor("mask"), lambda: op.shape("self"))
