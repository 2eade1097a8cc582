"""The relevance graph: one rule a node, and a promise for each forward value that a rule asks for."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.testing import FileCheck

from lrp_compiler.passes import explainable_inputs
from lrp_compiler.passes.assign import analyse, assign_rules, reachable, wanted_values
from lrp_compiler.passes.forward.select_explained import select_explained
from lrp_compiler.passes.forward.target import Target
from lrp_compiler.passes.graph import call, origin, simplify
from lrp_compiler.passes.joint.join import join
from lrp_compiler.passes.relevance.emit import Question, emit_relevance
from lrp_compiler.passes.relevance.seed import Seed
from lrp_compiler.rules.composites import COMPOSITES

X = torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])
WEIGHT = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.5, 1.0], [2.0, -1.0, 1.0], [0.0, 1.0, 1.0]])


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight).relu()


class Emitted:
    """What emission makes of a model, and the forward graph that it was made from."""

    def __init__(self, forward: fx.GraphModule, composite: str, seed: Seed) -> None:
        self.forward = simplify(forward).graph_module
        self.explained = select_explained(self.forward, 0, "output", Target())
        inputs, table = explainable_inputs(self.forward), COMPOSITES[composite]()
        analyse(self.forward, inputs, table)
        reached = reachable(self.forward, self.explained)
        assign_rules(self.forward, table, reached)
        wanted = wanted_values(self.forward, None, dict(zip(inputs, inputs, strict=True)), reached)
        self.relevance, promises = emit_relevance(self.forward, Question(self.explained, wanted), seed)
        self.promises = {(origin.name, value.name) for origin, value in promises}


@pytest.fixture
def emit(graph_of: Callable) -> Callable[..., Emitted]:
    def run(model: object, *args: Tensor, composite: str = "attnlrp", seed: Seed | None = None) -> Emitted:
        return Emitted(graph_of(model, *args), composite, seed or Seed(1))

    return run


def test_in_the_limit_only_weights_signs_and_the_input_are_promised(emit: Callable) -> None:
    emitted = emit(Net(), X)
    names = {node.target: node.name for node in emitted.forward.graph.nodes}
    linear, relu = (names[op] for op in (torch.ops.aten.linear.default, torch.ops.aten.relu.default))

    assert emitted.promises == {(relu, relu), (linear, "weight"), ("x", "x")}
    FileCheck().check("sign").check("mul").check("matmul").check("mul").check_not("div").run(emitted.relevance.code)


def test_a_finite_epsilon_promises_the_result_too(emit: Callable) -> None:
    emitted = emit(Net(), X, composite="epsilon")

    assert {origin for origin, value in emitted.promises if value == "linear"} == {"linear"}
    FileCheck().check("div").run(emitted.relevance.code)


def test_argmax_promises_the_output(emit: Callable) -> None:
    emitted = emit(Net(), X, seed=Seed("argmax"))

    assert (emitted.explained.name, emitted.explained.name) in emitted.promises


def test_placeholders_are_the_promised_values(emit: Callable) -> None:
    emitted = emit(Net(), X, composite="epsilon")

    promised = [node.meta["promise"] for node in emitted.relevance.graph.find_nodes(op="placeholder")]

    assert set(promised) == {value for _, value in emitted.promises}
    assert len(promised) == len(set(promised))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("seed", "name"), [(Seed("index"), "target"), (Seed("argmax", "tensor"), "seed"), (Seed(1), None)]
)
def test_a_seed_given_at_run_time_is_the_last_placeholder(seed: Seed, name: str | None, emit: Callable) -> None:
    placeholders = emit(Net(), X, seed=seed).relevance.graph.find_nodes(op="placeholder")

    assert [node.meta["seed"] for node in placeholders if "seed" in node.meta] == ([name] if name else [])
    assert placeholders[-1].meta.get("seed") == name


def test_the_relevance_graph_computes_the_transpose(emit: Callable) -> None:
    emitted = emit(Net(), X)
    values = {"x": X, "weight": WEIGHT, "linear": X @ WEIGHT.T, "relu": (X @ WEIGHT.T).relu()}
    placeholders = emitted.relevance.graph.find_nodes(op="placeholder")

    result = emitted.relevance(*(values[node.meta["promise"]] for node in placeholders))

    expected = X * ((X @ WEIGHT.T)[:, 1:2] > 0) * WEIGHT[1]
    torch.testing.assert_close(result["x"], expected)


def test_every_node_remembers_what_it_explains(emit: Callable) -> None:
    emitted = emit(Net(), X, composite="epsilon")

    known = [origin(node) for node in emitted.relevance.graph.nodes if node.op == "call_function"]

    assert {each.value for each in known} <= {node.name for node in emitted.forward.graph.nodes}
    assert {each.rule for each in known} >= {"epsilon", "identity"}


def test_relevance_of_a_tensor_with_two_readers_is_added(emit: Callable) -> None:
    emitted = emit(lambda x: x * 2 + x.relu() * 3, X)
    joint = join(emitted.forward, emitted.relevance)

    output, relevance = joint(X)

    expected = torch.zeros_like(X)
    expected[:, 1] = output[:, 1]
    torch.testing.assert_close(relevance, expected)


@pytest.mark.slow
def test_a_factor_that_is_reckoned_from_a_size_in_thousands_of_steps(graph_of: Callable) -> None:
    """Deeper than Python's stack; and each number is reckoned once, though every step reads the one before twice."""
    module = graph_of(lambda x: x * (x.shape[0] * 2), torch.ones(2, 4), dynamic=True)
    (product,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    number = product.args[1]
    with module.graph.inserting_before(product):
        for _ in range(3000):
            doubled = call(module.graph, operator.add, number, number)
            number = call(module.graph, operator.sub, doubled, number)
    product.args = (product.args[0], number)

    emitted = Emitted(module, "epsilon", Seed(1))

    assert len(emitted.relevance.graph.find_nodes(op="call_function", target=operator.sub)) <= 3000
    assert len(emitted.forward.graph.find_nodes(op="call_function", target=operator.sub)) == 3000


def test_an_input_that_the_output_does_not_depend_on_gets_no_relevance(emit: Callable) -> None:
    emitted = emit(lambda a, b: a * 2, X, X + 1)

    assert len(emitted.relevance.graph.output_node().args[0]) == 1


# ---- Joined ----


def test_joining_leaves_no_promise_open(emit: Callable) -> None:
    emitted = emit(Net(), X, composite="epsilon", seed=Seed("index"))

    joint = join(emitted.forward, emitted.relevance)

    assert [node.name for node in joint.graph.find_nodes(op="placeholder")] == ["x", "target"]
    FileCheck().check("def forward(self, x, target)").check_count("aten.linear", 1, exactly=True).run(joint.code)


def test_the_joint_graph_returns_outputs_then_relevance(emit: Callable) -> None:
    emitted = emit(Net(), X, seed=Seed("index"))
    target = torch.tensor([1, 2])

    output, relevance = join(emitted.forward, emitted.relevance)(X, target)

    assert torch.equal(output, (X @ WEIGHT.T).relu())
    torch.testing.assert_close(relevance, X * WEIGHT[target] * (output.gather(1, target[:, None]) > 0))


def test_forward_and_relevance_nodes_are_told_apart(emit: Callable) -> None:
    emitted = emit(Net(), X)

    joint = join(emitted.forward, emitted.relevance)

    known = {node.name: origin(node) for node in joint.graph.nodes}
    assert known["linear"].phase == "forward"
    assert known["matmul"].phase == "relevance"
    assert known["matmul"].value == "linear"


def test_sizes_of_a_dynamic_batch_are_read_from_the_inputs(graph_of: Callable) -> None:
    emitted = Emitted(graph_of(Net(), X, dynamic=True), "epsilon-plus", Seed("argmax"))

    joint = join(emitted.forward, emitted.relevance)

    rows = torch.randn(7, 3)
    output, relevance = joint(rows)
    assert output.shape == (7, 4)
    assert relevance.shape == (7, 3)
