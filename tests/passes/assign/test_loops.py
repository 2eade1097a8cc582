"""Which results of a loop carry relevance: found through the states, from step to step."""

from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import assignment, result_number, scans
from lrp_compiler.rules import SCAN


def test_a_state_is_active_where_a_step_makes_it_so() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            def step(state: Any, now: Any) -> Any:
                a, b, c = state
                x, y = now
                # b is reached by x one step later than a; c by y alone.
                return (a + x, b + a, c + y), (b.clone(), c * 2)

            zeros = torch.zeros(2)
            return scan(step, (zeros, zeros + 1, zeros + 2), (x, y))

    x = torch.randn(4, 2)
    module = unlift(torch.export.export(Net(), (x, x.clone())))

    mark_active(module, ["x"])

    (loop,) = scans(module)
    found = {result_number(user): assignment(user) for user in loop.users}
    active = {number for number, given in found.items() if given is not None}
    assert active == {0, 1, 3}  # states a and b, and the first result
    given = found[3]
    assert given is not None
    assert given.target == SCAN
    # The operands that are active: x. States start from constants, and carry what the steps gave them.
    assert {given.arguments[name] for name in given.active} >= {module.graph.find_nodes(op="placeholder")[0]}
    assert module.graph.find_nodes(op="placeholder")[1] not in {given.arguments[name] for name in given.active}
