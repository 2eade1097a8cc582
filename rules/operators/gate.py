"""Products of a signal and its gate in recurrent cells: the signal takes all, the gate nothing.

Decompositions write `torch.ops.lrp.gate(signal, gate)` where a product is known to be one; it computes `signal ⊙ gate`
and becomes an ordinary product before the explainer is handed out.

Source: Arras et al., "Explaining recurrent neural network predictions in sentiment analysis", WASSA 2017,
arXiv 1706.07206.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.rules.conditions import only, two_active
from lrp_compiler.rules.elementwise import Quotient, elementwise
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.product import Product
from lrp_compiler.rules.registry import operator
from lrp_compiler.rules.traits import keeps_sign

KIND = "recurrent gate"
"""What composites address."""


def _product(signal: Tensor, gate: Tensor) -> Tensor:
    return signal * gate


_LIBRARY = torch.library.Library("lrp", "FRAGMENT")
_LIBRARY.define("gate(Tensor self, Tensor other) -> Tensor")
_LIBRARY.impl("gate", _product, "CompositeExplicitAutograd")
torch.library.register_fake("lrp::gate", _product, lib=_LIBRARY)

RECURRENT_GATE = torch.ops.lrp.gate.default


@operator(
    RECURRENT_GATE,
    kind=KIND,
    family="product",
    rule="signal",
    when=two_active,
    sign=keeps_sign(),
    lowered=torch.mul,
)
def gate(op: Op) -> Product:
    """The second operand gates the first."""
    return Product({"self": "other", "other": "self"}, "other")


@elementwise(RECURRENT_GATE, kind="scale", when=only("self"))
def gated(op: Op) -> Quotient:
    """A constant gate."""
    return lambda: op.factor("other")


@operator(RECURRENT_GATE, kind="gate of a constant", family="elementwise", rule="zero", when=only("other"))
def constant_signal(op: Op) -> Quotient:
    """The signal is a constant (the layer's first state): the gate still takes nothing."""
    return None
