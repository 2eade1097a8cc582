"""Sums of several terms, as one list."""

from typing import Any

import pytest
import torch
from torch import fx

from lrp_compiler.passes.graph import Origin, set_origin
from lrp_compiler.passes.optimise.sums import continues, is_sum, terms

aten = torch.ops.aten


def always(term: fx.Node, root: fx.Node) -> bool:
    return True


class Sums:
    """A graph of sums over the inputs a, b, c, d."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.a, self.b, self.c, self.d = (self.graph.placeholder(name) for name in "abcd")

    def add(self, *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(aten.add.Tensor, args, kwargs)


@pytest.fixture
def made() -> Sums:
    return Sums()


def test_a_sum_is_an_addition_and_nothing_else(made: Sums) -> None:
    plain, numbered = made.add(made.a, made.b), made.add(made.a, 2)
    scaled = made.add(made.a, made.b, alpha=2)
    difference = made.graph.call_function(aten.sub.Tensor, (made.a, made.b))

    assert [is_sum(item) for item in (plain, numbered, scaled, difference, made.a, 2.0, None)] == [
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]


def test_terms_come_from_left_to_right_however_they_are_nested(made: Sums) -> None:
    left = made.add(made.add(made.a, made.b), made.add(made.c, made.d))
    root = made.add(made.add(0.5, left), made.a)
    made.graph.output((root,))

    assert terms(root, always) == [0.5, made.a, made.b, made.c, made.d, made.a]


def test_a_sum_that_is_added_to_itself_is_a_term_of_its_own(made: Sums) -> None:
    """Its only reader reads it twice."""
    inner = made.add(made.a, made.b)
    root = made.add(inner, inner)
    made.graph.output((root,))

    assert terms(root, always) == [made.a, made.b, made.a, made.b]


def test_a_sum_that_others_read_is_one_term(made: Sums) -> None:
    inner = made.add(made.a, made.b)
    root = made.add(inner, made.c)
    made.graph.output((root, inner))

    assert not continues(inner, always)
    assert terms(root, always) == [inner, made.c]


def test_a_sum_that_is_the_relevance_of_a_value_is_one_term(made: Sums) -> None:
    inner = made.add(made.a, made.b)
    root = made.add(inner, made.c)
    made.graph.output((root,))
    known = Origin("relevance", "relu")
    set_origin(inner, known)
    assert continues(inner, always)

    set_origin(inner, known.named("total", ["relu"]))

    assert not continues(inner, always)
    assert terms(root, always) == [inner, made.c]


def test_the_caller_says_what_joins(made: Sums) -> None:
    first, second = made.add(made.a, made.b), made.add(made.c, made.d)
    root = made.add(first, second)
    made.graph.output((root,))
    asked = []

    def joins(term: fx.Node, reader: fx.Node) -> bool:
        asked.append((term, reader))
        return term is second

    assert terms(root, joins) == [first, made.c, made.d]
    assert asked == [(first, root), (second, root)]


@pytest.mark.parametrize("target", [aten.mul.Tensor, aten.sub.Tensor])
def test_a_sum_that_is_read_by_something_else_does_not_continue(target: Any, made: Sums) -> None:
    inner = made.add(made.a, made.b)
    made.graph.output((made.graph.call_function(target, (inner, made.c)),))

    assert not continues(inner, always)


def test_a_sum_that_nobody_reads_does_not_continue(made: Sums) -> None:
    assert not continues(made.add(made.a, made.b), always)


@pytest.mark.parametrize("left", [True, False])
def test_a_tree_may_be_as_deep_as_a_scan_is_long(left: bool, made: Sums) -> None:
    root, depth = made.a, 5000
    for _ in range(depth):
        root = made.add(root, made.b) if left else made.add(made.b, root)
    made.graph.output((root,))

    found = terms(root, always)

    assert found == ([made.a] + [made.b] * depth if left else [made.b] * depth + [made.a])
