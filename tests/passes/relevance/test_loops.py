"""Relevance through a loop, step by step from the last: against gradients of the same steps in Python."""

from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from support.assigned import Assigned, assigned
from torch import Tensor, fx, nn
from torch._higher_order_ops.scan import scan

from lrp_compiler.passes.graph import assignment, outputs, scans
from lrp_compiler.passes.relevance import (
    Listeners,
    Question,
    Seed,
    emit_relevance,
    know_inside,
    open_loops,
    propagate_relevance,
)
from lrp_compiler.rules import INSIDE, total, unit


class Loop(nn.Module):
    """A state, a result of each step, and a value that is the same in all of them; all three are explained."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.start = start
        self.into, self.on, self.out = (
            nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64) / 2)
            for shape in ((3, 4), (4, 4), (4, 2))
        )

    def first(self, x: Tensor) -> Tensor:
        return torch.full((2, 4), self.start, dtype=x.dtype)

    def step(self, state: Tensor, now: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.relu(now @ self.into + state @ self.on + same)
        return state, state * 0.5

    def forward(self, x: Tensor, same: Tensor) -> Tensor:
        last, every = scan(lambda state, now: self.step(state, now, same), self.first(x), x.transpose(0, 1))
        return (last + every.sum(0)) @ self.out

    def written_out(self, x: Tensor, same: Tensor, start: Tensor | None = None) -> Tensor:
        state, every = self.first(x) if start is None else start, []
        for now in x.unbind(1):
            state, result = self.step(state, now, same)
            every.append(result)
        return (state + torch.stack(every).sum(0)) @ self.out


X, SAME = (
    torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) for shape in ((2, 6, 3), (2, 4))
)
CLASS = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(2, 2)


def opened(model: nn.Module, graph_of: Callable) -> Assigned:
    """By AttnLRP, which in a net of dense layers and ReLUs is gradient × input."""
    with torch.no_grad():
        done = assigned(graph_of(model, X, SAME))
    open_loops(done.forward)
    return done


@pytest.fixture(scope="module")
def loop(graph_of: Callable) -> Assigned:
    return opened(Loop(), graph_of)


def by_gradient(model: Loop, *more: Tensor) -> tuple[Tensor, ...]:
    """Gradient × input of x, of what is the same, and of a first state if there is one."""
    leaves = [value.clone().requires_grad_() for value in (X, SAME, *more)]
    gradients = torch.autograd.grad(model.written_out(*leaves)[:, 1].sum(), leaves)
    return tuple((gradient * leaf).detach() for gradient, leaf in zip(gradients, leaves, strict=True))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_every_step_and_what_is_the_same_in_all_get_gradient_times_input(loop: Assigned) -> None:
    values = loop.values(X, SAME)

    arrived = propagate_relevance(loop.forward, {loop.explained: unit(CLASS)}, values.__getitem__)

    found = {node.name: share.total_of(lambda node=node: values[node]) for node, share in arrived.items()}
    assert found.keys() == {"x", "same"}
    for name, wanted in zip(("x", "same"), by_gradient(Loop()), strict=True):
        close(found[name], wanted)


@pytest.mark.parametrize("seed", ["the last state", "what the steps hand out"])
def test_a_seed_may_be_put_on_either_result(seed: str, loop: Assigned) -> None:
    """In total form, which is kept from step to step: what arrives adds up to what was put there, nothing is lost."""
    values = loop.values(X, SAME)
    (node,) = scans(loop.forward)
    number = 0 if seed == "the last state" else 1
    (place,) = [user for user in node.users if user.args[1] == number]
    put = values[place].abs()

    arrived = propagate_relevance(loop.forward, {place: total(put)}, values.__getitem__)

    found = sum(float(share.total_of(lambda node=node: values[node]).sum()) for node, share in arrived.items())
    assert found == pytest.approx(float(put.sum()), rel=1e-5)  # an ε of 1e-6 against values of 1e-2 and more


def test_what_a_constant_first_state_gets_is_booked(graph_of: Callable) -> None:
    model = Loop(start=1.5)
    done = opened(model, graph_of)
    values, told = done.values(X, SAME), defaultdict[str, float](float)

    def absorb(node: fx.Node, cause: str, share: Tensor) -> None:
        told[cause] += float(share.sum())

    arrived = propagate_relevance(
        done.forward, {done.explained: unit(CLASS)}, values.__getitem__, listeners=Listeners(absorb=absorb)
    )

    *_, start = by_gradient(model, model.first(X))
    assert told["constant"] == pytest.approx(float(start.sum()), rel=1e-9)
    found = sum(float(share.total_of(lambda node=node: values[node]).sum()) for node, share in arrived.items())
    assert found + sum(told.values()) == pytest.approx(
        float(model.written_out(X, SAME)[:, 1].detach().sum()), rel=1e-12
    )


def test_all_values_of_the_steps_are_handed_out(loop: Assigned) -> None:
    """And each is what the steps in Python make of it."""
    (node,) = scans(loop.forward)
    values = loop.values(X, SAME)
    body = node.target.body

    results = outputs(body)
    assert len(results) == len(node.meta["val"])
    assert set(results) >= {one for one in body.graph.nodes if one.op == "call_function"}
    relu = next(
        number for number, one in enumerate(results) if one.target is torch.ops.aten.relu.default and number > 1
    )
    model, state = Loop(), Loop().first(X)
    steps = []
    for now in X.unbind(1):
        state, _ = model.step(state, now, SAME)
        steps.append(state)
    (handed,) = [values[user] for user in node.users if user.args[1] == relu]
    torch.testing.assert_close(handed, torch.stack(steps).detach(), rtol=1e-12, atol=1e-12)


def test_results_know_their_way_again_after_a_file(loop: Assigned) -> None:
    (node,) = scans(loop.forward)
    results = [given for user in node.users if (given := assignment(user)) is not None]
    assert len(results) == 2
    for given in results:
        given.know(INSIDE, None)

    know_inside(loop.forward)

    assert all(given.facts[INSIDE] is not None for given in results)


def test_traced_it_is_a_loop_of_one_steps_relevance(loop: Assigned) -> None:
    relevance, promises = emit_relevance(loop.forward, Question(loop.explained, loop.wanted), Seed(1))

    assert len(scans(relevance)) == 1  # from the state, and from what the steps hand out: together
    assert {value.name for _, value in promises} & {user.name for user in scans(loop.forward)[0].users}
    values = {node.name: value for node, value in loop.values(X, SAME).items()}
    found = relevance(*(values[place.meta["promise"]] for place in relevance.graph.find_nodes(op="placeholder")))
    of_x, of_same = by_gradient(Loop())
    close(found["x"], of_x)
    close(found["same"], of_same)


class Joined(Loop):
    """What is read and the state in one matrix, whose parts they are."""

    def step(self, state: Tensor, now: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.cat([self.into, self.on])
        state = torch.relu(torch.cat([now, state], 1) @ weights + same)
        return state, state * 0.5


def test_a_state_may_get_a_part_of_what_is_larger(graph_of: Callable) -> None:
    """torch's loops take no state whose strides change."""
    joined = opened(Joined(), graph_of)

    relevance, _ = emit_relevance(joined.forward, Question(joined.explained, joined.wanted), Seed(1))

    values = {node.name: value for node, value in joined.values(X, SAME).items()}
    found = relevance(*(values[place.meta["promise"]] for place in relevance.graph.find_nodes(op="placeholder")))
    of_x, of_same = by_gradient(Joined())
    close(found["x"], of_x)
    close(found["same"], of_same)
