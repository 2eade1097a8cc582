"""One step, as a graph."""

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_compiler.passes.reroll.body import Body
from lrp_compiler.passes.reroll.steps import calls, written_out


def test_a_value_of_two_steps_ago_takes_two_states(captured: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        first, second = torch.zeros(2, 3), torch.ones(2, 3)
        for _ in x.unbind(1):
            first, second = second, torch.tanh(second - first)
        return second

    programs = [list(calls(captured(function, length).graph)) for length in (5, 6)]
    steps, _ = written_out(*programs)[-1]
    body = Body(steps, {}, {})
    body.need(len(steps.first) - 1)

    module = body.module(torch.nn.Module(), [])

    states = [torch.full((2, 3), 5.0), torch.full((2, 3), 2.0)]
    names = {node.name: state for node, state in zip(module.graph.find_nodes(op="placeholder"), states, strict=True)}
    now = module(*names.values())
    before = states[now_is_second(body)]
    earlier = states[1 - now_is_second(body)]
    torch.testing.assert_close(now[now_is_second(body)], torch.tanh(before - earlier))
    torch.testing.assert_close(now[1 - now_is_second(body)], before)
    assert len(body.states) == 2


def now_is_second(body: Body) -> int:
    """Which state is that of the step just before."""
    return body.state_number(body.asked[0])
