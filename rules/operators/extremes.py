"""Largest and smallest values: relevance goes to the element, the operand or the bound that won.

Of equals the first one wins, as in torch; under the rule `near` those that come close share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.near_ties import Extreme
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.relevance import normalise_dims, sum_to_shape
from lrp_compiler.rules.selection import FILLED, Selection, selection
from lrp_compiler.rules.traits import Call, declare, keeps_sign

from .functions import CLAMPS, spans_zero

aten = torch.ops.aten


@selection(aten.amax.default, aten.amin.default, kind="extreme", sign=keeps_sign())
def extreme(op: Op) -> Selection:
    """The largest (smallest) element over dims."""
    shape = op.shape("self")
    reduced = normalise_dims(op.option("dim"), len(shape))
    kept = [dim for dim in range(len(shape)) if dim not in reduced]
    order = [*kept, *reduced]

    def first_wins(r: Tensor) -> Tensor:
        x = op.tensor("self").permute(order)
        flat = x.reshape([*x.shape[: len(kept)], -1])
        winners = (flat.argmax if op.target is aten.amax.default else flat.argmin)(-1, keepdim=True)
        routed = torch.zeros_like(flat, dtype=r.dtype).scatter(-1, winners, r.reshape(winners.shape))
        return routed.reshape(x.shape).permute([order.index(dim) for dim in range(len(order))])

    def spread(value: Tensor) -> Tensor:
        return value.reshape([1 if dim in reduced else length for dim, length in enumerate(shape)])

    return {"self": Extreme(first_wins, lambda: (op.tensor("self"), None), spread, tuple(reduced), lambda q: q)}


def _one_is_nonnegative(call: Call) -> bool:
    return any(map(call.known, (call.arguments["self"], call.arguments["other"])))


declare(aten.amax.default, reduces=True)
declare(aten.amax.default, aten.maximum.default, extreme=1)
declare(aten.amin.default, aten.minimum.default, extreme=-1)
declare(aten.maximum.default, sign=_one_is_nonnegative, arithmetic=True)
declare(aten.minimum.default, sign=keeps_sign())


@selection(aten.maximum.default, aten.minimum.default, pairs=True)
def winner(op: Op) -> Selection:
    """The larger (smaller) one of two, element by element."""

    def first_wins() -> Tensor:
        a, b = op.tensor("self"), op.tensor("other")
        return a >= b if op.target is aten.maximum.default else a <= b

    return {
        "self": lambda r: sum_to_shape(r * first_wins().to(r.dtype), op.shape("self")),
        "other": lambda r: sum_to_shape(r * (~first_wins()).to(r.dtype), op.shape("other")),
    }


@selection(*CLAMPS, when=~spans_zero)
def clamp(op: Op) -> Selection:
    """A clamp to a range without 0: an element within it keeps its relevance, a bound absorbs what it took over."""

    def within(r: Tensor) -> Tensor:
        return r * (op.tensor("self") == op.output).to(r.dtype)

    return {"self": within, FILLED: lambda r: r - within(r)}
