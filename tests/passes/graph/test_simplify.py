"""Clean-up of a graph."""

from collections.abc import Callable

import torch

from lrp_compiler.passes.graph.simplify import simplify

X = torch.randn(2, 3)


def test_a_value_computed_twice_is_computed_once(graph_of: Callable, targets: Callable) -> None:
    before = graph_of(lambda x: x.tanh() + x.tanh().clone(), X)
    (expected,) = before(X)

    after = simplify(before).graph_module

    assert targets(after) == ["tanh", "add"]
    assert torch.equal(after(X)[0], expected)


def test_a_value_that_nobody_reads_goes(graph_of: Callable, targets: Callable) -> None:
    before = graph_of(lambda x: x.relu(), X)
    with before.graph.inserting_before(before.graph.output_node()):
        before.graph.call_function(torch.ops.aten.exp.default, (before.graph.find_nodes(op="placeholder")[0],))

    after = simplify(before).graph_module

    assert targets(after) == ["relu"]


def test_different_options_are_different_values(graph_of: Callable, targets: Callable) -> None:
    after = simplify(graph_of(lambda x: x.sum(0) * x.sum(1).mean(), X)).graph_module

    assert targets(after).count("sum") == 2
