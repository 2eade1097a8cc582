"""Steps that are written out are found, and said to be none where they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.reroll.steps import Carried, Counter, Each, Local, NotRepeated, Same, calls, written_out


def decayed(x: Tensor) -> Tensor:
    h = torch.zeros(2, 3)
    for time in range(x.shape[1]):
        h = 0.5 * h + x[:, time]
    return h.exp()


def found(captured: Callable, function: Callable[[Tensor], Tensor], length: int = 5) -> list:
    programs = [list(calls(captured(function, one).graph)) for one in (length, length + 1)]
    return written_out(*programs)


def test_a_step_is_what_the_longer_program_has_once_more(captured: Callable) -> None:
    [(short, long)] = found(captured, decayed)

    assert (short.count, long.count) == (5, 6)
    assert [node.target.overloadpacket.__name__ for node in short.first] == ["mul", "select", "add"]
    times, read, plus = short.columns
    assert times[0] == Carried(2, 1, (short.first[0].args[0],))
    assert times[1] == Same(0.5)
    assert read[1:] == (Same(1), Counter(0, 1))
    assert plus == (Local(0), Local(1))


@pytest.mark.slow
def test_steps_over_the_steps_of_another_loop(captured: Callable) -> None:
    def twice(x: Tensor) -> Tensor:
        first = [x[:, time].exp() for time in range(x.shape[1])]
        h = torch.zeros(2, 3)
        for one in first:
            h = torch.tanh(h + one)
        return h

    (_, _), (second, _) = found(captured, twice)

    assert isinstance(second.columns[0][1], Each)


@pytest.mark.slow
def test_what_nobody_reads_of_the_last_step_may_be_missing(captured: Callable) -> None:
    def ends(x: Tensor) -> Tensor:
        h = torch.zeros(2, 3)
        for time in range(x.shape[1]):
            read = torch.tanh(h + x[:, time])
            h = read.exp()  # of the last one, nobody reads it
        return read

    [(steps, _)] = found(captured, ends)

    assert steps.count == 5
    assert [node is None for node in steps.nodes[-1]] == [False, False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: sum(x[:, : time + 1].mean(1) for time in range(x.shape[1])), "goes on|takes a number|counterpart"),
        (lambda x: sum(x[:, a] * x[:, b] for a in range(x.shape[1]) for b in range(a)), "counterpart|at lengths|steps"),
    ],
    ids=["a window that grows", "pairs"],
)
def test_what_is_no_loop(function: Callable[[Tensor], Tensor], said: str, captured: Callable) -> None:
    from lrp_compiler.passes.reroll import of_any_length

    with pytest.raises(NotRepeated, match=said):
        of_any_length(captured(function, 5), captured(function, 6), 5, (0, 1))
