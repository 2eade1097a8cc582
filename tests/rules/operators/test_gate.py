"""A recurrent gate: the signal takes all."""

import pytest
import torch
from support.selection_cases import A, B, tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lrp_compiler.passes.joint.lower_own_ops import lower_own_ops
from lrp_compiler.rules import Op, propagate, total, unit
from lrp_compiler.rules.operators.gate import RECURRENT_GATE

R = tensor(2, 3, 4, seed=3)


def gate(*active: str) -> Op:
    return Op.eager(RECURRENT_GATE, A, B, active=active)


def test_it_is_a_product() -> None:
    assert torch.equal(RECURRENT_GATE(A, B), A * B)


def test_the_signal_takes_all_and_the_gate_nothing() -> None:
    in_unit_form, in_total_form = (propagate(gate("self", "other"), form(R)) for form in (unit, total))

    assert in_unit_form["other"] is in_total_form["other"] is None
    assert torch.equal(in_unit_form["self"].tensor, R * B)
    assert torch.equal(in_total_form["self"].tensor, R)


def test_both_may_share_alike() -> None:
    flow = propagate(gate("self", "other"), unit(R), "uniform")

    assert torch.equal(flow["self"].tensor, R * B / 2)
    assert torch.equal(flow["other"].tensor, R * A / 2)


def test_a_constant_gate_scales() -> None:
    assert torch.equal(propagate(gate("self"), unit(R))["self"].tensor, R * B)


@pytest.mark.parametrize("form", [unit, total])
def test_the_gate_of_a_constant_gets_nothing(form: object) -> None:
    assert propagate(gate("other"), form(R)) == {"other": None}  # type: ignore[operator]


def test_the_explainer_holds_an_ordinary_product() -> None:
    class Gated(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return RECURRENT_GATE(x, y)

    module = make_fx(Gated(), tracing_mode="fake")(A, B)
    assert lower_own_ops(module).modified

    assert [node.target for node in module.graph.nodes if node.op == "call_function"] == [torch.ops.aten.mul.Tensor]
    assert torch.equal(module(A, B), A * B)
    assert not lower_own_ops(module).modified
