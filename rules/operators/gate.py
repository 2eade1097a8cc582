"""Products of a signal and its gate in recurrent cells: the signal takes all, the gate nothing.

Decompositions write `torch.ops.lrp.gate(signal, gate)` where a product is known to be one; it computes `signal ⊙ gate`
and becomes an ordinary product before the explainer is handed out.

Source: Arras et al., "Explaining recurrent neural network predictions in sentiment analysis", WASSA 2017,
arXiv 1706.07206.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.elementwise import Quotient, elementwise
from lrp_compiler.rules.op import Op, only, two_active
from lrp_compiler.rules.product import multiply
from lrp_compiler.rules.registry import operator

KIND = "recurrent gate"
"""What composites address."""


def _product(signal: Tensor, weight: Tensor, gate: str = "other") -> Tensor:
    return signal * weight


_LIBRARY = torch.library.Library("lrp", "FRAGMENT")
# The default names the operand that gates, as `find_gates` does for an ordinary product.
_LIBRARY.define('gate(Tensor self, Tensor other, str gate="other") -> Tensor')
_LIBRARY.impl("gate", _product, "CompositeExplicitAutograd")
torch.library.register_fake("lrp::gate", _product, lib=_LIBRARY)

RECURRENT_GATE = torch.ops.lrp.gate.default

operator(RECURRENT_GATE, kind=KIND, family="product", rule="signal", when=two_active)(multiply)


@elementwise(RECURRENT_GATE, kind="scale", when=only("self"))
def gated(op: Op) -> Quotient:
    """A constant gate."""
    return lambda: op.factor("other")


@operator(RECURRENT_GATE, kind="gate of a constant", family="elementwise", rule="zero", when=only("other"))
def constant_signal(op: Op) -> Quotient:
    """The signal is a constant (the layer's first state): the gate still takes nothing."""
    return None
