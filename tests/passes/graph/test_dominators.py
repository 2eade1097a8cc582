"""Where paths parted: against what removing each node from the graph says."""

import random

import pytest
from torch import fx

from lrp_compiler.passes.graph import Dominators


def graph_of(edges: dict[str, str]) -> dict[str, fx.Node]:
    """Name → node, of name → names of what it reads, one letter each."""
    graph, made = fx.Graph(), dict[str, fx.Node]()
    for name, operands in edges.items():
        made[name] = graph.call_function(max, tuple(made[one] for one in operands), name=name)
    return made


def tree(nodes: dict[str, fx.Node]) -> dict[str, str]:
    """Name → the nearest value that all operands came through; "" where there is none."""
    known, found = Dominators(), {}
    for name, node in nodes.items():
        operands = node.all_input_nodes
        if operands:
            root = known.follows(node, operands)
            found[name] = "" if root is None else next(other for other, one in nodes.items() if one is root)
        else:
            known.starts(node)
    return found


@pytest.mark.parametrize(
    ("edges", "wanted"),
    [
        ({"a": "", "b": "a", "c": "b"}, {"b": "a", "c": "b"}),
        ({"a": "", "b": "a", "c": "a", "d": "bc"}, {"b": "a", "c": "a", "d": "a"}),
        ({"a": "", "b": "a", "c": "b", "d": "bc", "e": "d"}, {"b": "a", "c": "b", "d": "b", "e": "d"}),
        ({"a": "", "b": "", "c": "ab", "d": "c"}, {"c": "", "d": "c"}),
        ({"a": "", "b": "", "c": "ab", "d": "ca"}, {"c": "", "d": ""}),
    ],
    ids=["a chain", "a diamond", "a step and none", "two starts", "one of two starts again"],
)
def test_the_nearest_value_that_everything_came_through(edges: dict[str, str], wanted: dict[str, str]) -> None:
    assert tree(graph_of(edges)) == wanted


def reaches(edges: dict[str, str], name: str, without: str) -> bool:
    """Whether a start can be walked to from a node without passing another."""
    return name != without and (not edges[name] or any(reaches(edges, one, without) for one in edges[name]))


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_last_node_without_which_no_start_is_reached(seed: int) -> None:
    """By definition: what every way from the operands to a start leads through, the one that is computed last."""
    draw, names = random.Random(seed), "abcdefghijkl"
    edges = {
        name: "".join(draw.sample(names[:at], min(at, draw.choice([1, 1, 2, 3])))) for at, name in enumerate(names)
    }

    for name, root in tree(graph_of(edges)).items():
        every = [
            one for one in names[: names.index(name)] if not any(reaches(edges, from_, one) for from_ in edges[name])
        ]
        assert root == every[-1], edges


def test_what_lies_above_a_node() -> None:
    nodes, known = graph_of({"a": "", "b": "a", "c": "a", "d": "bc", "e": "d"}), Dominators()
    known.starts(nodes["a"])
    for name in "bcd":
        known.follows(nodes[name], nodes[name].all_input_nodes)

    assert list(known.above(nodes["d"])) == [nodes["a"]]
    assert list(known.above(nodes["a"])) == []
    assert nodes["d"] in known
    assert nodes["e"] not in known
