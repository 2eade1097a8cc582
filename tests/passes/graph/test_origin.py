"""What a node stands for, and how that is handed on while graphs are rewritten."""

from collections.abc import Callable

import pytest
import torch
from torch import fx

from lrp_compiler.passes.graph import simplify
from lrp_compiler.passes.graph.origin import (
    SEEDED,
    Origin,
    is_named,
    keep_name,
    origin,
    set_origin,
    share_origin,
)

MADE = Origin("relevance", "linear", "head", "epsilon")
FORWARD = Origin("forward", "relu", "body", "identity")


@pytest.fixture
def nodes() -> tuple[fx.Node, fx.Node]:
    """A value and what is made of it; nothing is known of either."""
    graph = fx.Graph()
    source = graph.placeholder("x")
    return source, graph.call_function(torch.ops.aten.clone.default, (source,))


def test_nothing_is_known_of_a_new_node_nor_of_what_is_no_node(nodes: tuple[fx.Node, fx.Node]) -> None:
    assert [origin(item) for item in (*nodes, None, 2.0)] == [None] * 4


def test_what_is_known_can_be_forgotten(nodes: tuple[fx.Node, fx.Node]) -> None:
    node = nodes[1]
    set_origin(node, MADE)
    assert origin(node) is MADE

    set_origin(node, None)
    set_origin(node, None)

    assert origin(node) is None
    assert node.meta == {}


def test_relevance_that_passes_untouched_is_that_of_several_values() -> None:
    known = MADE.named("unit", ["relu"]).named("unit", ["add", "relu", "x"])

    assert known == Origin("relevance", "linear", "head", "epsilon", "unit", ("relu", "add", "x"))


def test_in_another_form_it_is_that_of_the_last_values_only() -> None:
    assert MADE.named("unit", ["relu"]).named("total", ["add"]) == MADE.named("total", ["add"])


def test_named_is_what_is_the_relevance_of_a_value(nodes: tuple[fx.Node, fx.Node]) -> None:
    source, node = nodes
    set_origin(source, MADE)
    set_origin(node, MADE.named("total", ["x"]))

    assert [is_named(item) for item in (source, node, 3)] == [False, True, False]


def test_what_is_made_for_the_same_purpose_is_not_the_relevance_itself(nodes: tuple[fx.Node, fx.Node]) -> None:
    source, node = nodes
    set_origin(source, MADE.named("unit", ["relu"]))

    share_origin(node, source)

    assert origin(node) == MADE
    assert origin(source) == MADE.named("unit", ["relu"])


def test_what_is_made_for_no_known_purpose_has_none(nodes: tuple[fx.Node, fx.Node]) -> None:
    source, node = nodes
    set_origin(node, MADE)

    share_origin(node, source)

    assert origin(node) is None


# ---- A node that changes nothing goes ----


@pytest.mark.parametrize(
    ("dropped", "left", "after"),
    [
        (MADE.named("unit", ["x"]), MADE, MADE.named("unit", ["x"])),
        (MADE.named("unit", ["x"]), MADE.named("unit", ["relu"]), MADE.named("unit", ["relu", "x"])),
        (MADE.named("total", ["x"]), MADE.named("unit", ["relu"]), MADE.named("total", ["x"])),
        (MADE, MADE.named("unit", ["relu"]), MADE.named("unit", ["relu"])),
        (None, MADE, MADE),
        (MADE.named("unit", ["x"]), None, None),
        (MADE.named("unit", ["x"]), FORWARD, FORWARD),
    ],
    ids=["named", "both", "another form", "nothing to hand on", "unknown", "of unknown", "of the forward"],
)
def test_its_source_is_then_the_relevance_that_it_was(
    dropped: Origin | None, left: Origin | None, after: Origin | None, nodes: tuple[fx.Node, fx.Node]
) -> None:
    source, node = nodes
    set_origin(source, left)
    set_origin(node, dropped)

    keep_name(node, source)

    assert origin(source) == after


def test_relevance_then_starts_at_its_source(nodes: tuple[fx.Node, fx.Node]) -> None:
    source, node = nodes
    node.meta[SEEDED] = True

    keep_name(node, source)

    assert source.meta[SEEDED] is True


def test_a_source_that_is_no_node_is_let_be(nodes: tuple[fx.Node, fx.Node]) -> None:
    node = nodes[1]
    node.meta[SEEDED] = True
    set_origin(node, MADE.named("unit", ["x"]))

    keep_name(node, 1.5)

    assert origin(node) == MADE.named("unit", ["x"])


def test_cleaning_up_keeps_the_names(graph_of: Callable, targets: Callable) -> None:
    """Two no-ops behind a value, each of them the relevance of another one."""
    module = graph_of(lambda x: (x * 2).clone().detach().exp(), torch.ones(2, 3))
    known = {"mul": MADE, "clone": MADE.named("unit", ["a"]), "detach": MADE.named("unit", ["b"])}
    for node in module.graph.nodes:
        set_origin(node, next((made for name, made in known.items() if node.name.startswith(name)), None))

    after = simplify(module).graph_module

    assert targets(after) == ["mul", "exp"]
    (mul,) = after.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert origin(mul) == MADE.named("unit", ["a", "b"])
