"""The relevance graph spliced behind the forward graph: one copy of everything, and the numbers of both."""

from typing import Any

import pytest
import torch
from support.assigned import Emitted, captured, emitted
from torch import Tensor, fx, nn

from lrp_compiler.passes.graph import Origin, is_tensor, origin, outputs, set_origin
from lrp_compiler.passes.joint.join import copy_repeated, join
from lrp_compiler.passes.relevance import Seed

aten = torch.ops.aten


class Net(nn.Module):
    """Rows of twice the batch between the layers; the input is an output, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x).relu().reshape(x.shape[0] * 2, 3).reshape(-1, 6)
        return self.b(h), x


def done(seed: Seed | None = None, model: nn.Module | None = None) -> Emitted:
    return emitted(captured((model or Net()).double(), torch.zeros(2, 4, dtype=torch.float64)), "attnlrp", seed)


def gradient_times_input(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)[0].gather(1, classes.unsqueeze(1))
    return torch.autograd.grad(logits.sum(), leaf)[0] * x


X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_returns_the_models_outputs_then_the_relevance() -> None:
    model = Net()
    emission = done(model=model)

    output, same, relevance = join(emission.forward, emission.relevance)(X)

    assert torch.equal(output, model(X)[0])
    assert torch.equal(same, X)
    expected = gradient_times_input(model, X, torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(relevance, expected, rtol=1e-12, atol=1e-14)


def test_no_promise_is_left_open() -> None:
    emission = done()

    joint = join(emission.forward, emission.relevance)

    assert [node.name for node in joint.graph.find_nodes(op="placeholder")] == ["x"]
    assert [node.name for node in joint.graph.find_nodes(op="get_attr")] == ["a_weight", "a_bias", "b_weight", "b_bias"]
    calls = [node.target for node in joint.graph.nodes if node.op == "call_function"]
    assert calls.count(aten.linear.default) == 2
    assert calls.count(aten.relu.default) == 1


def test_inputs_of_the_seed_follow_those_of_the_model() -> None:
    model = Net()
    emission = done(Seed("index"), model)

    joint = join(emission.forward, emission.relevance)

    assert [node.name for node in joint.graph.find_nodes(op="placeholder")] == ["x", "target"]
    classes = torch.tensor([0, 2, 1, 0, 2])
    expected = gradient_times_input(model, X, classes)
    torch.testing.assert_close(joint(X, classes)[2], expected, rtol=1e-12, atol=1e-14)


def test_every_node_knows_its_half() -> None:
    emission = done()

    joint = join(emission.forward, emission.relevance)

    known = {node.name: origin(node) for node in joint.graph.nodes}
    assert known["relu"] == Origin("forward", "relu", "", "identity")
    assert known["linear"] == Origin("forward", "linear", "a", "epsilon")
    assert known["x"] == Origin("forward", "x")
    (relevance,) = joint.graph.output_node().args[0][2:]
    assert (origin(relevance).phase, origin(relevance).value, origin(relevance).of) == ("relevance", "x", ("x",))
    assert not [node for node in joint.graph.nodes if "custom" in node.meta]


def test_sizes_are_those_of_the_forward_graph() -> None:
    """What the forward graph has read or calculated is not read or calculated again."""
    emission = done()
    forward_sizes = [node for node in emission.forward.graph.nodes if not is_tensor(node) and node.op != "output"]

    joint = join(emission.forward, emission.relevance)

    sizes = [node for node in joint.graph.nodes if not is_tensor(node) and node.op != "output"]
    assert len(sizes) >= 2
    expressions = [str(node.meta["val"]) for node in sizes]
    assert len(set(expressions)) == len(expressions)
    assert [node.name for node in sizes][: len(forward_sizes)] == [node.name for node in forward_sizes]


def test_both_graphs_stay_as_they_are() -> None:
    emission = done()
    before = str(emission.forward.graph), str(emission.relevance.graph)

    joint = join(emission.forward, emission.relevance)

    assert (str(emission.forward.graph), str(emission.relevance.graph)) == before
    assert joint.a_weight.data_ptr() == emission.forward.a_weight.data_ptr()


def test_constants_of_both_keep_their_values_under_names_of_their_own() -> None:
    forward, relevance = (fx.Graph() for _ in range(2))
    ones, twos = nn.Module(), nn.Module()
    ones.register_buffer("constant", torch.tensor([1.0]))
    twos.register_buffer("constant", torch.tensor([2.0]))
    x = forward.placeholder("x")
    y = forward.call_function(aten.mul.Tensor, (x, forward.get_attr("constant")))
    forward.output((y,))
    promise = relevance.placeholder("x")
    promise.meta["promise"] = "x"
    product = relevance.call_function(aten.mul.Tensor, (promise, relevance.get_attr("constant")))
    relevance.output({"x": product})
    for node in (*forward.nodes, *relevance.nodes):
        node.meta["val"] = torch.ones(1)

    joint = join(fx.GraphModule(ones, forward), fx.GraphModule(twos, relevance))

    assert [float(value) for value in joint(torch.tensor([5.0]))] == [5.0, 10.0]
    assert [node.target for node in joint.graph.find_nodes(op="get_attr")] == ["constant", "constant_1"]
    # What emission did not see being made belongs to the relevance all the same.
    assert origin(joint.graph.output_node().args[0][1]) == Origin("relevance", "")


# ---- One value under two names ----


def returning(*numbers: Any) -> fx.GraphModule:
    """A graph that returns its two values in this order; 0 is the model's, 1 is relevance, 2 is the input itself."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    values = [*(graph.call_function(op, (x,)) for op in (aten.exp.default, aten.neg.default)), x]
    for node in values:
        node.meta["val"] = torch.ones(2)
    set_origin(values[1], Origin("relevance", "x", "", "input").named("total", ["x"]))
    graph.output(tuple(values[number] for number in numbers))
    return fx.GraphModule(nn.Module(), graph)


@pytest.mark.parametrize(
    ("numbers", "own", "copied"),
    [((0, 1), 1, []), ((0, 1, 1), 1, [2]), ((0, 1, 1, 1), 1, [2, 3]), ((0, 0, 1), 2, [1]), ((0, 2, 2, 1), 3, [1, 2])],
)
def test_what_is_returned_twice_or_as_it_came_becomes_a_value_of_its_own(
    numbers: tuple[int, ...], own: int, copied: list[int]
) -> None:
    joint = returning(*numbers)
    x = torch.tensor([0.5, -1.0])
    expected = [(x.exp(), -x, x)[number] for number in numbers]

    copy_repeated(joint, own)

    flat = outputs(joint)
    assert [place for place, item in enumerate(flat) if item.target is aten.clone.default] == copied
    assert len({item.name for item in flat}) == len(flat)
    for place in copied:
        first = flat[numbers.index(numbers[place])]
        known = origin(first) if place >= own else Origin("forward", "x" if numbers[place] == 2 else "exp_default")
        assert origin(flat[place]) == known
    for found, value in zip(joint(x), expected, strict=True):
        assert torch.equal(found, value)
