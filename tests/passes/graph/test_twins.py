"""Values that a graph holds twice know one another."""

from torch import fx

from lrp_compiler.passes.graph import TWIN, twins_of


def test_a_value_is_found_by_the_name_of_its_twin() -> None:
    graph = fx.Graph()
    x, at_reference = graph.placeholder("x"), graph.placeholder("reference_x")
    y, same, other = (graph.call_function(abs, (one,)) for one in (x, x, at_reference))
    x.meta[TWIN], y.meta[TWIN] = at_reference.name, other.name
    graph.output((y, same, other))

    assert twins_of(fx.GraphModule({}, graph)) == {x: at_reference, y: other}


def test_without_a_reference_there_are_none() -> None:
    graph = fx.Graph()
    graph.output((graph.placeholder("x"),))

    assert twins_of(fx.GraphModule({}, graph)) == {}
