"""Steps become a loop that returns what they returned."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.graph import TORCHS
from lrp_compiler.passes.reroll.roll import roll
from lrp_compiler.passes.reroll.steps import NotRepeated, calls, written_out


def stacked(x: Tensor) -> Tensor:
    h, out = torch.zeros(2, 3), [torch.ones(2, 3)]
    for time in range(x.shape[1]):
        h = torch.tanh(h + x[:, time])
        out.append(h)
    return torch.stack(out, 1)


def in_a_row(x: Tensor) -> Tensor:
    h, out = torch.zeros(2, 2, 3), []
    for time in range(x.shape[1]):
        h = torch.tanh(h + x[:, time : time + 1])
        out.append(h)
    return torch.cat(out[::-1], dim=1)


def one_of_them(x: Tensor) -> Tensor:
    h, out = torch.zeros(2, 3), []
    for time in range(x.shape[1]):
        h = torch.tanh(h + x[:, time])
        out.append(h * 2)
    return torch.stack(out).sum(0) + out[1] + out[-1] + out[-2]


def every_other_place(x: Tensor) -> Tensor:
    out = torch.ones(2, 2 * x.shape[1], 3)
    h = torch.zeros(2, 3)
    for time in range(x.shape[1]):
        h = torch.tanh(h + x[:, time])
        out[:, 2 * time + 1] = h
    return out


def backwards_into_place(x: Tensor) -> Tensor:
    out = torch.zeros(2, x.shape[1], 3)
    h = torch.zeros(2, 3)
    for time in reversed(range(x.shape[1])):
        h = torch.tanh(h + x[:, time])
        out[:, time] = h
    return out


@pytest.mark.slow
@pytest.mark.parametrize("function", [stacked, in_a_row, one_of_them, every_other_place, backwards_into_place])
def test_a_loop_returns_what_the_steps_did(function: Callable[[Tensor], Tensor], captured: Callable) -> None:
    programs = [captured(function, length) for length in (5, 6)]
    loops = written_out(*(list(calls(program.graph)) for program in programs))
    x = torch.randn(2, 5, 3)

    roll(programs[0], [loop for loop, _ in loops])

    torch.testing.assert_close(programs[0](x), function(x))
    assert len(programs[0].graph.find_nodes(op="call_function", target=TORCHS)) == 1
    assert not programs[0].graph.find_nodes(op="call_function", target=torch.ops.aten.tanh.default)


def test_what_is_written_into_must_not_be_read_meanwhile(captured: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        out = torch.zeros(2, x.shape[1], 3)
        for time in range(x.shape[1]):
            out[:, time] = x[:, time] + out.sum(1)
        return out

    programs = [captured(function, length) for length in (5, 6)]
    loops = written_out(*(list(calls(program.graph)) for program in programs))

    with pytest.raises(NotRepeated, match="read before all of it is written"):
        roll(programs[0], [loop for loop, _ in loops])
