"""Where a step reads and writes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.reroll.reading import Place, read, written
from lrp_compiler.passes.reroll.steps import Counter, Steps, calls, written_out


def steps_of(captured: Callable, function: Callable[[Tensor], Tensor]) -> Steps:
    programs = [list(calls(captured(function, one).graph)) for one in (5, 6)]
    return written_out(*programs)[-1][0]


def added(pick: Callable[[Any, int], Tensor], apart: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        parts = apart(x)
        h = torch.zeros_like(pick(parts, 0))
        for time in range(x.shape[1]):
            h = (h + pick(parts, time)).exp()
        return h

    return function


@pytest.mark.slow
@pytest.mark.parametrize(
    ("apart", "pick", "counter", "flat"),
    [
        (lambda x: x, lambda x, time: x[:, time], Counter(0, 1), False),
        (lambda x: x, lambda x, time: x.select(-2, -1 - time), Counter(4, -1), False),
        (lambda x: x, lambda x, time: x[:, time : time + 1], Counter(0, 1), True),
        (lambda x: x.unbind(1), lambda parts, time: parts[time], Counter(0, 1), False),
        (lambda x: x.split(1, dim=1), lambda parts, time: parts[time], Counter(0, 1), True),
    ],
    ids=["an element", "from the end", "a slice of one", "of all, apart", "of pieces"],
)
def test_where_a_step_reads(apart: Callable, pick: Callable, counter: Counter, flat: bool, captured: Callable) -> None:
    found, count = [], 0
    programs = [list(calls(captured(added(pick, apart), one).graph)) for one in (5, 6)]
    for steps, _ in written_out(*programs):
        places = [read(node, columns) for node, columns in zip(steps.first, steps.columns, strict=True)]
        found += [place for place in places if place is not None]
        count = steps.count

    assert [(one.dim, one.counter, one.flat, one.size) for one in found] == [(1, counter, flat, 5)]
    assert found[0].bounds(count) == (0, 5, 1)


def test_where_a_step_writes(captured: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        out = torch.zeros(2, 2 * x.shape[1], 3)
        for time in range(x.shape[1]):
            out[:, 2 * time] = x[:, time].exp()
        return out

    steps = steps_of(captured, function)
    places: list[Any] = [written(node, steps.columns[place], place) for place, node in enumerate(steps.first)]
    found = [place for place in places if place is not None]

    assert [(one.dim, one.counter, one.flat) for one in found] == [(1, Counter(0, 2), False)]
    assert isinstance(found[0], Place)
    assert found[0].bounds(5) == (0, 9, 2)
