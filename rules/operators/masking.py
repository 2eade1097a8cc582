"""Values chosen by a mask: where it is not set, they come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_compiler.rules.op import Op
from lrp_compiler.rules.relevance import sum_to_shape
from lrp_compiler.rules.selection import FILLED, Selection, Transpose, selection
from lrp_compiler.rules.traits import keeps_sign

aten = torch.ops.aten


@selection(aten.where.self, sign=keeps_sign())
def where(op: Op) -> Selection:
    """One of two values, by a mask."""

    def masked(name: str, chosen: Callable[[], Tensor]) -> Transpose:
        return lambda r: sum_to_shape(r * chosen().to(r.dtype), op.shape(name))

    return {
        "self": masked("self", lambda: op.tensor("condition")),
        "other": masked("other", lambda: ~op.tensor("condition")),
    }


@selection(aten.masked_fill.Scalar, sign=keeps_sign("self", "value"))
def masked_fill(op: Op) -> Selection:
    """A constant where the mask says so; the rest is kept."""
    return {"self": _unmasked(op), FILLED: lambda r: r * op.tensor("mask").to(r.dtype)}


@selection(aten.masked_fill.Tensor, sign=keeps_sign())
def masked_fill_by_tensor(op: Op) -> Selection:
    """A value, perhaps an activation, where the mask says so; the rest is kept."""
    return {
        "self": _unmasked(op),
        "value": lambda r: sum_to_shape(r * op.tensor("mask").to(r.dtype), op.shape("value")),
    }


def _unmasked(op: Op) -> Transpose:
    return lambda r: sum_to_shape(r * (~op.tensor("mask")).to(r.dtype), op.shape("self"))
