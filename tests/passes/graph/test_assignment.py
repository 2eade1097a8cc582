"""What is decided about a node, and the view of it that its rule gets."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph.assignment import Assignment, assign, assignment
from lrp_compiler.rules import NONNEGATIVE, Fact, Facts, Values, propagate, unit

X = torch.randn(2, 3, dtype=torch.float64)
WEIGHT, BIAS = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)


@pytest.fixture
def linear() -> fx.Node:
    """A dense layer in a graph."""
    graph = fx.Graph()
    operands = tuple(graph.placeholder(name) for name in ("x", "weight", "bias"))
    return graph.call_function(torch.ops.aten.linear.default, operands)


def values(node: fx.Node) -> dict[fx.Node, Tensor]:
    """Numbers for the layer's operands and result."""
    x, weight, bias = node.all_input_nodes
    return {x: X, weight: WEIGHT, bias: BIAS, node: X @ WEIGHT.T + BIAS}


def test_a_node_without_a_decision_is_passed_by_no_relevance(linear: fx.Node) -> None:
    assert assignment(linear) is None


def test_a_decision_stands_with_its_node_until_it_is_withdrawn(linear: fx.Node) -> None:
    given = Assignment.of(linear, ("input",))
    assign(linear, given)
    assert assignment(linear) is given

    assign(linear, None)
    assign(linear, None)

    assert assignment(linear) is None


def test_arguments_have_the_names_of_the_schema_and_its_defaults(linear: fx.Node) -> None:
    x, weight, _ = linear.all_input_nodes
    with linear.graph.inserting_after(linear):
        without_bias = linear.graph.call_function(linear.target, (x, weight))

    given = Assignment.of(without_bias, ("input",))

    assert given == Assignment(linear.target, {"input": x, "weight": weight, "bias": None}, ("input",))
    assert (given.kind, given.rule, given.options, given.wanted, given.facts) == ("", "", {}, (), Facts())


def test_an_operand_is_a_node(linear: fx.Node) -> None:
    given = Assignment.of(linear, ("input",))

    assert given.operand("input") is linear.all_input_nodes[0]
    with pytest.raises(KeyError):
        given.operand("self")


def test_what_an_analysis_finds_is_added_to_what_is_known(linear: fx.Node) -> None:
    one, other = Assignment.of(linear, ("input",)), Assignment.of(linear, ("input",))

    one.know(NONNEGATIVE, ("input",))
    one.know(NONNEGATIVE, ("input", "weight"))

    assert one.facts[NONNEGATIVE] == ("input", "weight")
    assert other.facts == Facts()


def test_forgetting_a_fact_is_writing_down_its_default(linear: fx.Node) -> None:
    given = Assignment.of(linear, ("input",))
    given.know(NONNEGATIVE, ("input",))

    fact: Fact[tuple[str, ...]] = NONNEGATIVE
    given.know(fact, fact.default)

    assert given.facts == Facts()


def test_by_default_a_rule_sees_the_symbolic_values_of_the_capture(graph_of: Callable) -> None:
    module = graph_of(lambda x: torch.nn.functional.linear(x, WEIGHT, BIAS), X, dynamic=True)
    (linear,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)

    op = Assignment.of(linear, ("input",)).op(linear)

    batch, features = op.shape("input")
    assert (features, op.rank("weight"), op.dtype("bias")) == (3, 2, torch.float64)
    assert isinstance(batch, torch.SymInt)
    assert op.output_shape == (batch, 4)


def test_a_rule_sees_numbers_where_it_is_given_some(linear: fx.Node) -> None:
    given = Assignment.of(linear, ("input",))
    g = torch.randn(2, 4, dtype=torch.float64)

    flow = propagate(given.op(linear, Values(values(linear).__getitem__)), unit(g), "epsilon", epsilon=0.0)

    torch.testing.assert_close(flow["input"].tensor, g @ WEIGHT, rtol=1e-15, atol=1e-15)


def test_what_a_rule_asks_for_and_absorbs_is_told(linear: fx.Node) -> None:
    asked: list[str] = []
    absorbed: dict[str, Tensor] = {}
    op = Assignment.of(linear, ("input",)).op(
        linear, Values(values(linear).__getitem__, lambda handle: asked.append(handle.name), absorbed.__setitem__)
    )
    g = torch.randn(2, 4, dtype=torch.float64)

    propagate(op, unit(g), "epsilon", epsilon=0.0)

    weight, bias = linear.all_input_nodes[1:]
    assert set(asked) == {weight.name, bias.name}
    assert set(absorbed) == {"bias"}
    torch.testing.assert_close(absorbed["bias"], g * BIAS, rtol=1e-15, atol=1e-15)


def test_a_parameter_gets_its_share_where_it_is_wanted(linear: fx.Node) -> None:
    given = Assignment(linear.target, Assignment.of(linear, ()).arguments, ("input",), ("weight",))
    g = torch.randn(2, 4, dtype=torch.float64)

    flow = propagate(given.op(linear, Values(values(linear).__getitem__), wanted=given.wanted), unit(g), epsilon=0.0)

    assert set(flow) == {"input", "weight"}
    messages = (g.unsqueeze(-1) * WEIGHT * X.unsqueeze(1)).sum(0)  # g_k w_ki x_i, of all rows
    torch.testing.assert_close(flow["weight"].total_of(lambda: WEIGHT), messages, rtol=1e-14, atol=1e-14)
    assert set(propagate(given.op(linear, Values(values(linear).__getitem__)), unit(g), epsilon=0.0)) == {"input"}


def test_anything_else_in_its_place_is_a_fault(linear: fx.Node) -> None:
    linear.meta["lrp"] = {"rule": "epsilon"}

    with pytest.raises(AssertionError):
        assignment(linear)
