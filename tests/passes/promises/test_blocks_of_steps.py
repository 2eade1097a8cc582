"""Blocks by hand: steps that there are not change no state, and are left out of what is put together."""

import torch
from torch import fx

from lrp_compiler.passes.graph import Scan
from lrp_compiler.passes.promises.blocks_of_steps import handing_out, in_one, in_one_backwards, while_within


def running_sum() -> Scan:
    """h ← h + x; it hands out 2h and x."""
    graph = fx.Graph()
    with torch._subclasses.FakeTensorMode() as mode:
        places = [graph.placeholder(name) for name in "hx"]
        for place in places:
            place.meta.update({"val": mode.from_tensor(torch.ones(1)), "input": place.name})
        behind = graph.call_function(torch.ops.aten.add.Tensor, tuple(places))
        twice = graph.call_function(torch.ops.aten.mul.Tensor, (behind, 2))
        for node in (behind, twice):
            node.meta["val"] = places[0].meta["val"]
    graph.output((behind, twice, places[1]))
    return Scan(fx.GraphModule(torch.nn.Module(), graph), 1, 1)


STEPS = torch.tensor([[1.0], [2.0], [4.0]])


def test_a_step_that_is_none_leaves_the_state() -> None:
    last, twice, _ = while_within(running_sum())(torch.zeros(1), STEPS, torch.tensor([True, True, False]))

    assert last.tolist() == [3.0]
    assert twice[:2].tolist() == [[2.0], [6.0]]


def test_other_results_are_not_handed_out() -> None:
    last, read = handing_out(running_sum(), [2])(torch.zeros(1), STEPS)

    assert last.tolist() == [7.0]
    assert torch.equal(read, STEPS)


def test_blocks_are_put_together_without_what_fills_up_the_last() -> None:
    blocks = torch.tensor([[[1.0], [2.0]], [[4.0], [9.0]]])

    assert torch.equal(in_one(blocks, STEPS), STEPS)
    assert torch.equal(in_one_backwards(blocks.flip(0), STEPS), STEPS)
