"""A graph module on another device, which is here one without memory: nothing of the old one is left, or changed."""

import pytest
import torch
from support.assigned import Assigned, assigned, captured
from torch import Tensor, fx, nn

from lrp_compiler.passes.graph import assignment, is_tensor
from lrp_compiler.passes.joint.move import move

CPU, META = torch.device("cpu"), torch.device("meta")


class Net(nn.Module):
    """Weights, and a tensor that the graph makes."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x).relu() + torch.arange(4)


@pytest.fixture
def done() -> Assigned:
    return assigned(captured(Net().double(), torch.zeros(2, 3, dtype=torch.float64)), "epsilon")


def devices(module: fx.GraphModule) -> dict[str, set[torch.device]]:
    """Where weights and values are, and where tensors are made."""
    return {
        "weights": {tensor.device for tensor in module.state_dict().values()},
        "values": {node.meta["val"].device for node in module.graph.nodes if is_tensor(node)},
        "made": {torch.device(node.kwargs["device"]) for node in module.graph.nodes if node.kwargs.get("device")},
    }


def pointers(module: fx.GraphModule) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}


def all_on(device: torch.device) -> dict[str, set[torch.device]]:
    return {what: {device} for what in ("weights", "values", "made")}


def test_weights_values_and_new_tensors_are_on_the_device(done: Assigned) -> None:
    assert devices(done.forward) == all_on(CPU)

    moved = move(done.forward, "meta")

    assert devices(moved) == all_on(META)


def test_the_old_one_stays_where_it_is(done: Assigned) -> None:
    before, code = pointers(done.forward), done.forward.code

    move(done.forward, META)

    assert devices(done.forward) == all_on(CPU)
    assert pointers(done.forward) == before
    assert done.forward.code == code


def test_it_computes_the_same_where_it_is(done: Assigned) -> None:
    x = torch.randn(5, 3, dtype=torch.float64)

    moved = move(done.forward, CPU)

    assert moved is not done.forward
    assert torch.equal(moved(x)[0], done.forward(x)[0])


def test_it_runs_on_the_device(done: Assigned) -> None:
    (result,) = move(done.forward, META)(torch.empty(5, 3, dtype=torch.float64, device=META))

    assert (result.shape, result.device) == ((5, 4), META)


def test_shapes_stay_symbolic(done: Assigned) -> None:
    moved = move(done.forward, META)

    for old, new in zip(done.forward.graph.nodes, moved.graph.nodes, strict=True):
        if is_tensor(old):
            assert new.meta["val"].shape == old.meta["val"].shape
            assert new.meta["val"].dtype == old.meta["val"].dtype


def test_assignments_speak_of_the_new_nodes(done: Assigned) -> None:
    moved = move(done.forward, META)

    checked = 0
    for old, new in zip(done.forward.graph.nodes, moved.graph.nodes, strict=True):
        given, kept = assignment(new), assignment(old)
        assert (given is None) == (kept is None)
        if given is None or kept is None:
            continue
        assert given is not kept
        assert (given.kind, given.rule, given.options, given.facts) == (kept.kind, kept.rule, kept.options, kept.facts)
        for name in given.active:
            assert given.operand(name).graph is moved.graph
            assert kept.operand(name).graph is done.forward.graph
            assert given.operand(name).name == kept.operand(name).name
            checked += 1
    assert checked == 3  # the layer, the ReLU, the sum
