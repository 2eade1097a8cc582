"""The joint graph taken apart where relevance begins: both parts together compute what it does."""

from typing import Any

import pytest
import torch
from support.assigned import captured, emitted
from torch import Tensor, fx, nn

from lrp_compiler.passes.graph import Origin, is_tensor, origin, set_origin, simplify
from lrp_compiler.passes.joint.join import join
from lrp_compiler.passes.joint.split import split
from lrp_compiler.passes.relevance import Seed

aten = torch.ops.aten


class Net(nn.Module):
    """Rows of twice the batch between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 5), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu().reshape(x.shape[0] * 2, 3)
        return self.c(self.b(h).relu().reshape(-1, 10))


def joint_of(composite: str = "attnlrp", seed: Seed | None = None) -> fx.GraphModule:
    done = emitted(captured(Net().double(), torch.zeros(2, 4, dtype=torch.float64)), composite, seed)
    return simplify(join(done.forward, done.relevance)).graph_module


X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("composite", ["attnlrp", "epsilon-plus"])
def test_both_parts_compute_what_the_whole_does(composite: str) -> None:
    joint = joint_of(composite)

    forward, relevance, _ = split(joint, inputs=1, own=1)

    output, *kept = forward(X)
    (found,) = relevance(*kept)
    expected = joint(X)
    assert torch.equal(output, expected[0])
    assert torch.equal(found, expected[1])


def test_kept_values_are_named_in_the_order_in_which_they_are_handed_over() -> None:
    joint = joint_of()

    forward, relevance, kept = split(joint, inputs=1, own=1)

    assert kept == ["x", "relu", "relu_1"]  # in the limit ε → 0: signs of the activations, and the input
    assert [node.name for node in relevance.graph.find_nodes(op="placeholder")] == kept
    _, *handed = (result.name for result in forward.graph.output_node().args[0])
    assert handed[1:] == ["relu", "relu_1"]


def test_relevance_runs_again_for_another_target_without_the_forward() -> None:
    joint = joint_of(seed=Seed("index"))

    forward, relevance, _ = split(joint, inputs=1, own=1)

    _, *kept = forward(X)
    for number in range(3):
        target = torch.full((5,), number)
        assert torch.equal(relevance(*kept, target)[0], joint(X, target)[1])
    assert [node.name for node in forward.graph.find_nodes(op="placeholder")] == ["x"]


def test_a_part_holds_nothing_of_the_other() -> None:
    forward, relevance, _ = split(joint_of(), inputs=1, own=1)

    halves = [
        {origin(node).phase for node in part.graph.nodes if node.op == "call_function" and origin(node)}
        for part in (forward, relevance)
    ]
    assert halves == [{"forward"}, {"relevance"}]
    assert sorted(name for name, _ in forward.named_buffers()) == sorted(
        f"{layer}_{kind}" for layer in "abc" for kind in ("weight", "bias")
    )
    assert sorted(name for name, _ in relevance.named_buffers()) == ["a_weight", "b_weight", "c_weight"]


def test_weights_that_both_need_are_shared() -> None:
    joint = joint_of()

    forward, relevance, _ = split(joint, inputs=1, own=1)

    for name, tensor in relevance.named_buffers():
        assert tensor.data_ptr() == forward.get_buffer(name).data_ptr() == joint.get_buffer(name).data_ptr()


def test_sizes_are_read_off_what_is_handed_over() -> None:
    _, relevance, _ = split(joint_of(), inputs=1, own=1)

    assert all(is_tensor(node) for node in relevance.graph.find_nodes(op="placeholder"))
    read = relevance.graph.find_nodes(op="call_function", target=aten.sym_size.int)
    assert read
    assert {node.args[0].op for node in read} == {"placeholder"}


# ---- Border cases, by hand ----


class Joint:
    """A joint graph that is written by hand."""

    def __init__(self) -> None:
        self.graph, self.root = fx.Graph(), nn.Module()

    def input(self, name: str) -> fx.Node:
        return self._known(self.graph.placeholder(name), Origin("forward", name))

    def weight(self, name: str, value: float) -> fx.Node:
        self.root.register_buffer(name, torch.full((2,), value))
        return self._known(self.graph.get_attr(name), Origin("forward", name))

    def forward(self, target: Any, *args: Any) -> fx.Node:
        return self._known(self.graph.call_function(target, args), Origin("forward", "a_value"))

    def relevance(self, target: Any, *args: Any) -> fx.Node:
        return self._known(self.graph.call_function(target, args), Origin("relevance", "a_value", "", "epsilon"))

    def returning(self, *results: Any) -> fx.GraphModule:
        self.graph.output(results)
        return fx.GraphModule(self.root, self.graph)

    def _known(self, node: fx.Node, known: Origin) -> fx.Node:
        node.meta["val"] = torch.ones(2)
        set_origin(node, known)
        return node


def both(joint: fx.GraphModule, inputs: int, own: int, *args: Tensor) -> tuple[list[Any], list[str], fx.GraphModule]:
    """What both parts return together, what is kept, and the relevance part."""
    forward, relevance, kept = split(joint, inputs, own)
    first = forward(*args[:inputs])
    return [*first[:own], *relevance(*first[own:], *args[inputs:])], kept, relevance


ROW = torch.tensor([0.5, -2.0])


def test_a_value_that_only_relevance_reads_is_the_forwards_all_the_same() -> None:
    made = Joint()
    x = made.input("x")
    output, promised = made.forward(aten.exp.default, x), made.forward(aten.sin.default, x)
    joint = made.returning(output, made.relevance(aten.mul.Tensor, promised, 3))

    found, kept, relevance = both(joint, 1, 1, ROW)

    assert kept == [promised.name]
    assert [node.target for node in relevance.graph.nodes if node.op == "call_function"] == [aten.mul.Tensor]
    torch.testing.assert_close(found, list(joint(ROW)), rtol=0, atol=0)


def test_what_is_computed_from_weights_is_handed_over_and_weights_are_not() -> None:
    made = Joint()
    x, weight = made.input("x"), made.weight("weight", 2.0)
    scale = made.forward(aten.exp.default, weight)
    output = made.forward(aten.mul.Tensor, x, scale)
    joint = made.returning(output, made.relevance(aten.mul.Tensor, made.relevance(aten.mul.Tensor, scale, weight), 2))

    found, kept, relevance = both(joint, 1, 1, ROW)

    assert kept == [scale.name]
    assert [name for name, _ in relevance.named_buffers()] == ["weight"]
    torch.testing.assert_close(found, list(joint(ROW)), rtol=0, atol=0)


def test_a_relevance_that_is_a_value_of_the_forward_is_handed_through() -> None:
    """A file cannot give one value two names, so it is copied."""
    made = Joint()
    x = made.input("x")
    output = made.forward(aten.exp.default, x)
    joint = made.returning(output, x, output)

    found, kept, relevance = both(joint, 1, 1, ROW)

    assert kept == ["x", output.name]
    assert [node.target for node in relevance.graph.nodes if node.op == "call_function"] == [aten.clone.default] * 2
    torch.testing.assert_close(found, list(joint(ROW)), rtol=0, atol=0)


def test_a_relevance_that_is_returned_twice_is_copied() -> None:
    made = Joint()
    x = made.input("x")
    double = made.relevance(aten.mul.Tensor, x, 2)
    joint = made.returning(made.forward(aten.exp.default, x), double, double)

    found, _, relevance = both(joint, 1, 1, ROW)

    first, second = relevance.graph.output_node().args[0]
    assert first is not second
    torch.testing.assert_close(found, list(joint(ROW)), rtol=0, atol=0)


def test_an_input_that_nobody_reads_stays_an_input_of_the_forward() -> None:
    made = Joint()
    x, unread = made.input("x"), made.input("unread")
    joint = made.returning(made.forward(aten.exp.default, x), made.relevance(aten.mul.Tensor, x, 2))

    found, kept, _ = both(joint, 2, 1, ROW, ROW)

    assert unread.name not in kept
    torch.testing.assert_close(found, list(joint(ROW, ROW)), rtol=0, atol=0)


def test_a_seed_belongs_to_the_relevance_whatever_is_known_of_it() -> None:
    made = Joint()
    x, seed = made.input("x"), made.input("seed")
    joint = made.returning(made.forward(aten.exp.default, x), made.relevance(aten.mul.Tensor, seed, x))

    found, kept, relevance = both(joint, 1, 1, ROW, ROW + 1)

    assert kept == ["x"]
    assert [node.name for node in relevance.graph.find_nodes(op="placeholder")] == ["x", "seed"]
    torch.testing.assert_close(found, list(joint(ROW, ROW + 1)), rtol=0, atol=0)


def test_outputs_that_are_no_nodes_stay_where_they_are() -> None:
    made = Joint()
    x = made.input("x")
    joint = made.returning(None, made.forward(aten.exp.default, x), 3, made.relevance(aten.mul.Tensor, x, 2))

    forward, relevance, _ = split(joint, 1, 3)

    nothing, output, three, *kept = forward(ROW)
    assert (nothing, three) == (None, 3)
    assert torch.equal(output, ROW.exp())
    assert torch.equal(relevance(*kept)[0], ROW * 2)


def test_the_joint_graph_stays_as_it_is() -> None:
    joint = joint_of()
    before = joint.code

    split(joint, 1, 1)

    joint.recompile()
    assert joint.code == before
