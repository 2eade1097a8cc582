"""Regions that quantise, as `passes/assign/quantisers.py` finds them."""

from __future__ import annotations

from torch import Tensor

from lrp_compiler.rules.op import Op
from lrp_compiler.rules.quantisation import Quantisation
from lrp_compiler.rules.registry import QUANTISED, operator


@operator(QUANTISED, kind="quantisation", family="quantisation", rule="identity")
def quantised(op: Op) -> Quantisation:
    """Operands: `times`, `over`: by which x is measured in steps; `back`, `back_over`: what these are worth."""

    def worth() -> Tensor | float:
        return _scale(op, "back", "back_over")

    return Quantisation(lambda: _scale(op, "times", "over") * worth(), worth)


def _scale(op: Op, times: str, over: str) -> Tensor | float:
    if op.has(times):
        return op.factor(times)
    return 1 / op.factor(over) if op.has(over) else 1.0
