"""Where a symbolic size of a graph can be read."""

import pytest
import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph.sizes import Sizes, size_readings

aten = torch.ops.aten


class Doubled(torch.nn.Module):
    """A value of `[batch, 6]` in, one of `[2·batch, 3]` out."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0] * 2, 3)


@pytest.fixture(scope="module")
def values() -> list[Tensor]:
    """The symbolic values of both."""
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Doubled(), (torch.ones(4, 6),), dynamic_shapes=shapes)
    nodes = [node for node in program.graph.nodes if node.op != "output"]
    return [nodes[0].meta["val"], nodes[-1].meta["val"]]


class Graph:
    """A new graph with two values; no size is read in it yet."""

    def __init__(self, values: list[Tensor]) -> None:
        self.graph = fx.Graph()
        self.sizes = Sizes(self.graph)
        self.x, self.y = self.graph.placeholder("x"), self.graph.placeholder("y")
        self.x.meta["val"], self.y.meta["val"] = values
        self.batch, self.twice = (value.shape[0] for value in values)

    def run(self, *results: fx.Node) -> list[int]:
        """The results for a batch of 5."""
        self.graph.output(results)
        return list(fx.GraphModule(torch.nn.Module(), self.graph)(torch.ones(5, 6), torch.ones(10, 3)))


def test_a_size_is_read_off_a_tensor_that_has_it(values: list[Tensor]) -> None:
    made = Graph(values)
    made.sizes.add_dims(made.x)
    made.sizes.add_dims(made.y)

    batch, twice = made.sizes.read(made.batch), made.sizes.read(made.twice)

    assert (batch.target, batch.args) == (aten.sym_size.int, (made.x, 0))
    assert (twice.target, twice.args) == (aten.sym_size.int, (made.y, 0))
    assert batch.meta["val"] is made.batch
    assert made.run(batch, twice) == [5, 10]


def test_it_is_read_once(values: list[Tensor]) -> None:
    made = Graph(values)
    made.sizes.add_dims(made.x)

    first, again = made.sizes.read(made.batch), made.sizes.read(made.x.meta["val"].shape[0] + 0)

    assert again is first
    assert made.sizes.node(made.batch) is first
    assert [node.op for node in made.graph.nodes] == ["placeholder", "placeholder", "call_function"]


def test_of_several_places_the_first_is_taken(values: list[Tensor]) -> None:
    made = Graph(values)
    z = made.graph.placeholder("z")
    z.meta["val"] = made.x.meta["val"]
    made.sizes.add_dims(made.x)
    made.sizes.add_dims(z)

    assert made.sizes.read(made.batch).args == (made.x, 0)


def test_a_size_that_the_graph_has_is_not_read_again(values: list[Tensor]) -> None:
    made = Graph(values)
    size = made.graph.call_function(aten.sym_size.int, (made.x, 0))
    size.meta["val"] = made.batch
    made.sizes.add_dims(made.x)

    made.sizes.add(size)

    assert made.sizes.read(made.batch) is size
    assert made.sizes.node(made.batch) is size


def test_fixed_sizes_and_tensors_are_none(values: list[Tensor]) -> None:
    made = Graph(values)
    made.sizes.add_dims(made.x)
    made.sizes.add(made.x)

    for value in (6, None, made.x.meta["val"], "batch"):
        assert value not in made.sizes
        assert made.sizes.node(value) is None


def test_a_size_is_known_by_its_expression(values: list[Tensor]) -> None:
    made = Graph(values)
    made.sizes.add_dims(made.x)

    assert made.batch in made.sizes
    assert made.twice not in made.sizes
    assert made.sizes.node(made.batch) is None  # it can be read, but no node is it yet

    made.sizes.add_dims(made.y)

    assert made.batch + made.batch in made.sizes


def test_what_is_nowhere_cannot_be_read(values: list[Tensor]) -> None:
    made = Graph(values)
    made.sizes.add_dims(made.x)

    with pytest.raises(KeyError):
        made.sizes.read(made.twice)


def test_a_node_that_is_no_tensor_has_no_dims(values: list[Tensor]) -> None:
    made = Graph(values)
    size = made.graph.call_function(aten.sym_size.int, (made.x, 0))
    size.meta["val"] = made.batch

    made.sizes.add_dims(size)

    assert made.batch not in made.sizes


def test_readings_of_a_size_are_told_from_what_takes_the_values(values: list[Tensor]) -> None:
    made = Graph(values)
    made.sizes.add_dims(made.x)
    read = made.sizes.read(made.batch)
    made.graph.call_function(aten.relu.default, (made.x,))

    assert size_readings(made.x) == [read]
    assert size_readings(made.y) == []
