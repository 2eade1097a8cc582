"""What an approximation of a value misses: `remainder(value, approximation) = value − approximation`.

A dictionary that is spliced into a network (a sparse autoencoder) makes x = approximation + remainder of a value x. The
approximation takes its way back through the features; the remainder's relevance is the value's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import two_active
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import Flow, family_rule, operator
from lrp_compiler.rules.relevance import Relevance, total

KIND = "remainder"
"""What composites address."""


def _difference(value: Tensor, approximation: Tensor) -> Tensor:
    return value - approximation


_LIBRARY = torch.library.Library("lrp", "FRAGMENT")
_LIBRARY.define("remainder(Tensor self, Tensor other) -> Tensor")
_LIBRARY.impl("remainder", _difference, "CompositeExplicitAutograd")
torch.library.register_fake("lrp::remainder", _difference, lib=_LIBRARY)

REMAINDER = torch.ops.lrp.remainder.default


@operator(REMAINDER, kind=KIND, family="remainder", rule="whole", when=two_active, lowered=torch.sub)
def remainder(op: Op) -> None:
    """There is nothing to be said."""


@family_rule("remainder", "whole")
def whole(op: Op, description: None, relevance: Relevance) -> Flow:
    """`R_value = R`, in total form; the approximation gets nothing here."""
    return {"self": total(op.total(relevance)), "other": None}
