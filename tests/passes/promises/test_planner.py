"""The planner alone: lists in, a decision out."""

import time
from itertools import pairwise

import pytest
from support.plans import INPUT, executable

from lrp_compiler.passes.promises.planner import Value, plan

pytestmark = pytest.mark.sampled(4)


def chain(length: int, nbytes: int = 100) -> list[Value]:
    """An input and `length` equal steps, each computed from the one before."""
    return [INPUT, *(Value(nbytes, 10.0, (index,)) for index in range(length))]


def test_by_default_everything_that_costs_is_kept() -> None:
    values = chain(9)
    decision = plan(values, range(1, 10))

    assert decision.kept == set(range(1, 10))
    assert (decision.rebuilt, decision.cost, decision.held) == (set(), 0.0, 900)


def test_views_are_rebuilt_from_their_base_which_is_kept_in_their_place() -> None:
    values = [INPUT, Value(100, 10.0, (0,)), Value(100, 0.0, (1,), free=True), Value(100, 0.0, (2,), free=True)]
    decision = plan(values, [3])

    assert decision.kept == {1}
    assert decision.rebuilt == {2, 3}
    assert decision.held == 100


def test_a_slice_is_kept_where_its_base_would_be_larger() -> None:
    base, third = Value(300, 10.0, (0,)), Value(100, 0.0, (1,), free=True)

    assert plan([INPUT, base, third, third, third], [2]).kept == {2}
    assert plan([INPUT, base, third, third, third], [2, 3, 4]).kept == {1}


def test_inputs_and_constants_are_never_kept() -> None:
    values = [INPUT, Value(0, given=True), Value(100, 0.0, (0,), free=True)]

    assert plan(values, [0, 1, 2]).kept == set()


def test_under_a_budget_elementwise_values_go_first() -> None:
    """A convolution's output and its ReLU: the ReLU costs one operation an element to have again."""
    values = [INPUT]
    for _ in range(4):
        values.append(Value(100, 1000.0, (len(values) - 1,)))
        values.append(Value(100, 1.0, (len(values) - 1,), cheap=True))
    decision = plan(values, range(1, 9), 0.7)

    assert decision.kept == {1, 3, 5, 7}
    assert decision.cost == 4.0
    assert decision.held == 500  # the last ReLU is there again before any convolution may go


def test_a_chain_of_elementwise_values_is_not_rebuilt_as_a_whole() -> None:
    """Its end is asked for first, and all of it would be there at once."""
    values = [INPUT, Value(100, 1000.0, (0,))]
    values += [Value(100, 1.0, (index,), cheap=True) for index in range(1, 9)]
    decision = plan(values, range(1, 10), 0.75)

    assert decision.held <= 0.75 * decision.promised
    assert len(decision.rebuilt) < 8


def test_what_relevance_has_passed_is_held_no_more() -> None:
    """Two segments: when the first is rebuilt, all of the second has gone."""
    values = chain(10)
    decision = plan(values, range(1, 11), 0.6)

    assert decision.held == 600
    assert decision.cost <= 50.0


@pytest.mark.parametrize("length", [16, 64, 256, 1024])
def test_a_chain_is_cut_at_about_the_root_of_its_length(length: int) -> None:
    values = chain(length)
    decision = plan(values, range(1, length + 1), 0.0)

    assert executable(values, list(range(1, length + 1)), decision)
    # 2√n is what evenly spaced checkpoints allow; the number of segments is one of a table.
    assert decision.held <= 2.7 * length**0.5 * 100
    assert decision.held > 0


@pytest.mark.parametrize("budget", [0.9, 0.5, 0.25])
def test_what_is_held_stays_within_the_budget(budget: float) -> None:
    values = chain(200)
    decision = plan(values, range(1, 201), budget)

    assert decision.held <= budget * decision.promised
    assert executable(values, list(range(1, 201)), decision)


def test_less_memory_never_costs_less() -> None:
    values = chain(300)
    costs = [plan(values, range(1, 301), budget).cost for budget in (1.0, 0.8, 0.6, 0.4, 0.3, 0.2)]

    assert all(a <= b for a, b in pairwise(costs))


def test_what_a_long_branch_needs_crosses_every_cut_it_passes() -> None:
    """A skip connection over the whole chain: its source is kept once, not rebuilt in every segment."""
    values = chain(100)
    values.append(Value(100, 1.0, (100, 1)))
    decision = plan(values, range(1, 101), 0.3)

    assert 1 in decision.kept
    assert executable(values, list(range(1, 101)), decision)


def test_nothing_is_rebuilt_twice() -> None:
    values = chain(100)
    decision = plan(values, range(1, 101), 0.0)

    assert decision.cost <= sum(value.cost for value in values)


@pytest.mark.heavy
@pytest.mark.parametrize("shape", ["chain", "tree", "transformer"])
def test_planning_is_linear(shape: str) -> None:
    def build(count: int) -> list[Value]:
        if shape == "chain":
            return chain(count)
        values = [INPUT]
        while len(values) <= count:
            n = len(values)
            if shape == "tree":
                values.append(Value(100, 10.0, (n // 2,)))
            else:  # residual stream, branch, branch, sum
                stream = n - 1
                values += [Value(100, 9.0, (stream,)), Value(400, 40.0, (n,)), Value(100, 40.0, (n + 1,))]
                values.append(Value(100, 1.0, (stream, n + 2), cheap=True))
        return values

    def seconds(count: int) -> float:
        values = build(count)
        start = time.process_time()
        plan(values, range(1, len(values)), 0.25)
        return time.process_time() - start

    seconds(1000)
    small, large = min(seconds(1000) for _ in range(3)), min(seconds(8000) for _ in range(3))

    assert large < 8 * 3 * small  # eight times as many values; the rest is noise
