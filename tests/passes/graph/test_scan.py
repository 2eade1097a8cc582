"""Loops as nodes: they run as torch's scan does, and what nobody reads goes."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._higher_order_ops.scan import scan

from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import (
    Result,
    Scan,
    everywhere,
    from_torch,
    graph_text,
    in_bodies,
    move_in_front,
    outputs,
    result_number,
    scans,
    to_torch,
    without_unread,
)


class Net(torch.nn.Module):
    """Two states, two results of each step, and one of them is read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        def step(state: Any, x: Tensor) -> Any:
            h, count = state
            h = torch.tanh(x + h @ self.weight.exp())
            return (h, count + 1), (h.clone(), h * 2)

        start = (torch.zeros_like(x[0]), torch.zeros_like(x[0, :, :1]))
        (last, _), (every, _) = scan(step, start, x)
        return last + every.sum(0)


X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))


def forward_graph() -> fx.GraphModule:
    shapes = {"x": {0: torch.export.Dim("time"), 1: torch.export.Dim("batch")}}
    with torch.no_grad():
        return unlift(torch.export.export(Net().eval(), (X,), dynamic_shapes=shapes))


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 2, 9])
def test_a_loop_runs_as_torchs_does(time: int) -> None:
    x = X.repeat(2, 1, 1)[:time]

    torch.testing.assert_close(forward_graph()(x)[0], Net()(x))


def test_a_loop_of_no_steps_returns_its_first_states() -> None:
    (loop,) = scans(forward_graph())
    states = (torch.ones(2, 3), torch.zeros(2, 1))
    constants = [torch.zeros(3, 3)] * (len(loop.args) - 3)

    last, count, *results = loop.target(*states, X[:0], *constants)

    assert torch.equal(last, states[0])
    assert torch.equal(count, states[1])
    assert [tuple(one.shape) for one in results] == [(0, 2, 3), (0, 2, 3)]


def test_what_stays_the_same_is_worked_out_in_front() -> None:
    module = forward_graph()

    (loop,) = scans(module)
    assert "exp" not in {str(node.target) for node in loop.target.body.graph.nodes for _ in [0] if "exp" in str(node)}
    assert any("exp" in str(node.target) for node in module.graph.nodes)
    before = len(module.graph.nodes)
    move_in_front(module)
    assert len(module.graph.nodes) == before


def test_unread_results_and_operands_go() -> None:
    module = forward_graph()
    expected = module(X)[0]

    without_unread(module)

    (loop,) = scans(module)
    assert len(outputs(loop.target.body)) == 3  # both states, and the result that is read
    torch.testing.assert_close(module(X)[0], expected, rtol=0, atol=0)


def test_results_know_their_loop() -> None:
    module = forward_graph()

    (loop,) = scans(module)
    for user in loop.users:
        assert 0 <= result_number(user) < len(outputs(loop.target.body))
    assert list(everywhere(module)) == [module, loop.target.body]


def test_bodies_are_rewritten_in_a_copy() -> None:
    module = forward_graph()
    body = scans(module)[0].target.body
    seen = []

    def rewrite(one: fx.GraphModule) -> Result:
        seen.append(one)
        return Result(one, False, [("relu", "it is one already")])

    declined = in_bodies(module, rewrite)

    assert declined == [(f"relu in {scans(module)[0].name}", "it is one already")]
    assert seen[0] is not body
    assert scans(module)[0].target.body is seen[0]


def test_there_and_back() -> None:
    module = forward_graph()
    expected = module(X)[0]

    to_torch(module)
    assert not scans(module)
    assert module.graph.find_nodes(op="call_function", target=torch.ops.higher_order.scan)
    from_torch(module)

    module.recompile()
    assert [type(node.target) for node in scans(module)] == [Scan]
    torch.testing.assert_close(module(X)[0], expected, rtol=0, atol=0)


def test_the_text_shows_a_body_behind_its_loop() -> None:
    lines = graph_text(forward_graph()).splitlines()

    (place,) = (number for number, line in enumerate(lines) if "= scan(" in line)
    body = [line for line in lines[place + 1 :] if line.startswith("    ")]
    assert "scan(body" not in lines[place]
    assert any("tanh(" in line for line in body)
    assert body[-1].strip().startswith("return ")
