"""The forward graph as the planner sees it: bytes, operations and sources, by hand."""

from collections.abc import Callable

import pytest
import torch
from support.assigned import captured
from torch import Tensor, nn

from lrp_compiler.passes.promises.ledger import TRANSCENDENTAL, Ledger, cost, nbytes


class Weights(nn.Module):
    """A function of the input and of weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        for name, shape in {"dense": (5, 6), "bias": (5,), "kernel": (4, 3, 2, 2), "grouped": (3, 1, 3, 3)}.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


ROWS, IMAGE = torch.ones(2, 6), torch.ones(2, 3, 5, 5)


NEITHER, FREE, CHEAP = (False, False), (True, False), (False, True)
# Function of the weights and the input, input, bytes, operations, whether it is a view and whether elementwise.
VALUES: dict[str, tuple[Callable[..., Tensor], Tensor, int, float, tuple[bool, bool]]] = {
    "a dense layer": (lambda m, x: nn.functional.linear(x, m.dense, m.bias), ROWS, 2 * 5 * 4, 2 * (2 * 5) * 6, NEITHER),
    "a product": (lambda m, x: x @ x.T, ROWS, 2 * 2 * 4, 2 * (2 * 2) * 6, NEITHER),
    "a convolution": (lambda m, x: torch.conv2d(x, m.kernel), IMAGE, 128 * 4, 2 * 128 * (3 * 4), NEITHER),
    "a strided one": (lambda m, x: torch.conv2d(x, m.kernel, None, 2), IMAGE, 32 * 4, 2 * 32 * (3 * 4), NEITHER),
    "a depthwise one": (lambda m, x: torch.conv2d(x, m.grouped, groups=3), IMAGE, 54 * 4, 2 * 54 * 9, NEITHER),
    "an addition": (lambda m, x: torch.addmm(m.bias, x, m.dense.T), ROWS, 2 * 5 * 4, 2 * (2 * 5) * 6, NEITHER),
    "elementwise": (lambda m, x: x.exp(), ROWS, 12 * 4, 12, CHEAP),
    "elementwise with a row": (lambda m, x: x + x[:1], ROWS, 12 * 4, 12, CHEAP),
    "a comparison": (lambda m, x: x > 0, ROWS, 12, 12, CHEAP),
    "softmax": (lambda m, x: x.softmax(1), ROWS, 12 * 4, TRANSCENDENTAL * 12, NEITHER),
    "a sum": (lambda m, x: x.sum(1), ROWS, 2 * 4, TRANSCENDENTAL * 2, NEITHER),
    "a sum of all": (lambda m, x: x.sum(), ROWS, 4, TRANSCENDENTAL, NEITHER),
    "a view": (lambda m, x: x.reshape(3, 4), ROWS, 12 * 4, 0, FREE),
    "a slice": (lambda m, x: x[:, 1:], ROWS, 10 * 4, 0, FREE),
    "a cast": (lambda m, x: x.to(torch.float64), ROWS, 12 * 8, 0, FREE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_bytes_and_operations_are_those_of_the_example(name: str) -> None:
    function, example, size, operations, (free, cheap) = VALUES[name]

    value = Ledger.of(captured(Weights(function), example, dynamic=False)).values[-1]

    assert (value.nbytes, value.cost, value.free, value.cheap, value.given) == (size, operations, free, cheap, False)


def test_a_size_that_varies_counts_as_it_is_in_the_example(graph_of: Callable) -> None:
    module = graph_of(lambda x: (x @ torch.ones(6, 3)).exp(), torch.ones(7, 6), dynamic=True)
    nodes = {str(getattr(node.target, "_opname", node.op)): node for node in module.graph.nodes}

    assert (nbytes(nodes["exp"]), cost(nodes["exp"])) == (7 * 3 * 4, 7 * 3)
    assert (nbytes(nodes["matmul"]), cost(nodes["matmul"])) == (7 * 3 * 4, 2 * 7 * 3 * 6)
    assert isinstance(cost(nodes["matmul"]), float)


def test_sources_are_indices_each_of_them_once(graph_of: Callable) -> None:
    module = graph_of(lambda x: (y := x.exp()) * y + x, ROWS)

    ledger = Ledger.of(module)

    names = [node.name for node in ledger.nodes]
    sources = [[names[source] for source in value.sources] for value in ledger.values]
    assert sources == [[], [names[0]], ["exp"], ["mul", names[0]]]
    assert [ledger.index[node] for node in ledger.nodes] == [0, 1, 2, 3]
    assert len(ledger.nodes) == len(module.graph.nodes) - 1  # all but the output


def test_inputs_weights_and_what_is_made_of_weights_are_at_hand(graph_of: Callable) -> None:
    ledger = Ledger.of(graph_of(Weights(lambda m, x: (x @ m.dense.exp().T) * torch.ones(5)), ROWS))

    given = {node.name: value.given for node, value in zip(ledger.nodes, ledger.values, strict=True)}

    assert [name for name, at_hand in given.items() if not at_hand] == ["matmul", "mul"]
    assert {"dense", "exp", "full"} <= given.keys()
    assert not [value for value in ledger.values if value.given and value.nbytes]


def test_what_is_made_of_an_input_is_not(graph_of: Callable) -> None:
    """Also where it is made of nothing else, or of its size alone."""
    ledger = Ledger.of(graph_of(lambda x: x.exp() + torch.ones(x.shape[0], 1), torch.ones(3, 2), dynamic=True))

    given = {node.name: value.given for node, value in zip(ledger.nodes, ledger.values, strict=True)}

    assert (given["exp"], given["full"]) == (False, False)


def test_sizes_and_tuples_have_no_bytes_of_their_own(graph_of: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        values, _ = x.topk(2, 1)
        return values.reshape(x.shape[0] * 2)

    ledger = Ledger.of(graph_of(function, torch.ones(3, 4), dynamic=True))

    plain = [
        value
        for node, value in zip(ledger.nodes, ledger.values, strict=True)
        if not isinstance(node.meta["val"], torch.Tensor)
    ]
    assert len(plain) == 3  # the batch size, twice that, and the pair of values and indices
    for value in plain:
        assert (value.nbytes, value.cost, value.free, value.given) == (0, 0.0, True, False)
