"""Shape and indexing ops: relevance returns to the element that each value came from.

Every op here picks elements and puts them somewhere: a linear map of zeros and ones. Its transpose takes `R` to `R`
and `g` to `g` alike, so both forms pass and no forward value is needed (indices and masks apart). An operator of this
family gives the transpose for each tensor operand; what lands on an operand that carries no relevance is absorbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from .conditions import Condition, always
from .op import Op
from .registry import Describe, Flow, Overload, Register, family_rule, operator
from .relevance import Relevance, sum_to_shape, times
from .traits import Given

Transpose = Callable[[Tensor], Tensor]
Selection = Mapping[str, Transpose]
"""By operand name: the transpose that brings relevance of the result back to that operand. Under `FILLED`, where an op
puts in values of its own (a border, a mask's value): relevance of the result → the part of it that lies there."""

FILLED = "filled"


@dataclass(frozen=True)
class Masked:
    """The transpose of a choice by a mask: relevance where it is set, zeros elsewhere.

    What is chosen instead may be infinite (a masked score), and its `R` then NaN, which times zero is not zero.

    Args:
        mask: gives the flags, broadcastable to the result.
        shape: gives the operand's.
    """

    mask: Callable[[], Tensor]
    shape: Callable[[], Sequence[int | torch.SymInt]]

    def __call__(self, r: Tensor) -> Tensor:
        """Of relevance in unit form; what a branch that was not taken makes of it may be NaN, too."""
        mask = self.mask()
        return sum_to_shape(torch.where(mask, r, 0.0) if not mask.dim() else r * mask.to(r.dtype), self.shape())

    def of_total(self, r: Tensor) -> Tensor:
        """Of relevance in total form."""
        return sum_to_shape(torch.where(self.mask(), r, 0.0), self.shape())


@family_rule("selection", "route", hands_on=True)
def route(op: Op, selection: Selection, relevance: Relevance) -> Flow:
    """Relevance goes to the element that the value came from; what lies on values put in is absorbed."""
    for name in selection:
        if name == FILLED:
            op.absorb("constant", partial(_filled_share, op, selection[FILLED], relevance))
        elif not op.is_active(name) and op.has(name):
            op.absorb("constant", partial(_constant_share, op, name, selection[name], relevance))
    return {
        name: relevance.map(selection[name], getattr(selection[name], "of_total", None))
        for name in (*op.active, *op.wanted)
    }


def _filled_share(op: Op, part: Transpose, relevance: Relevance) -> Tensor:
    return Relevance(part(relevance.tensor), relevance.form).total_of(lambda: op.output, times)


def _constant_share(op: Op, name: str, transpose: Transpose, relevance: Relevance) -> Tensor:
    routed = transpose(relevance.tensor)
    constant = lambda: torch.as_tensor(op.factor(name), dtype=routed.dtype)  # noqa: E731
    return Relevance(routed, relevance.form).total_of(constant, times)


def selection(
    *targets: Overload,
    kind: str = "selection",
    when: Condition = always,
    channels: int | None = None,
    **known: Unpack[Given],
) -> Register[Describe]:
    """Register the transposes of selecting ops."""
    return operator(*targets, kind=kind, family="selection", rule="route", when=when, channels=channels, **known)
