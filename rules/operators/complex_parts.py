"""Where complex numbers begin and end: an input, or an op that the pairs do not know.

A complex value has one relevance, a real number, in total form: the sum of that of its parts. The other way the parts
take it by their squares, `a² / (a² + b²)`: by what each is of the size.
"""

from __future__ import annotations

import torch

from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import Flow, family_rule, operator
from lrp_compiler.rules.relevance import Relevance, total

aten = torch.ops.aten


@operator(aten.view_as_real.default, aten.view_as_complex.default, kind="complex", family="complex", rule="parts")
def complex_parts(op: Op) -> bool:
    """Whether the parts are made of a complex value, not the value of the parts."""
    return op.target is aten.view_as_real.default


@family_rule("complex", "parts")
def parts(op: Op, apart: bool, relevance: Relevance) -> Flow:
    """`R_z = R_a + R_b`; back again `R_a = R a² / (a² + b²)`, half each where both are 0."""
    R = op.total(relevance)
    if apart:
        return {"self": total(R.sum(-1))}
    squares = op.tensor("self") * op.tensor("self")
    size = squares.sum(-1, keepdim=True)
    nothing = (size == 0).to(squares.dtype)
    return {"self": total(R.unsqueeze(-1) * (squares + 0.5 * nothing) / (size + nothing))}
