"""Products with a weight, and what is added to them, become the dense layers that they are."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.forward import recognise_dense_layers

X = torch.randn(3, 4, 6, dtype=torch.float64)


def test_a_product_and_a_vector_are_a_dense_layer(graph_of: Callable, targets: Callable) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5, dtype=torch.float64))
            self.bias = nn.Parameter(torch.randn(5, dtype=torch.float64))
            self.square = nn.Parameter(torch.randn(5, 5, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            y = self.bias + x @ self.weight
            return (y @ self.square) @ self.square

    model = Model()
    wanted = model(X)

    result = recognise_dense_layers(graph_of(model, X))

    assert targets(result.graph_module) == ["linear", "linear", "linear"]
    torch.testing.assert_close(result.graph_module(X)[0], wanted)
    assert len(list(result.graph_module.graph.find_nodes(op="get_attr"))) == 3  # the square one once


def test_a_weight_whose_relevance_is_asked_for_stays_as_it_lies() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = Model().eval()
    x = torch.randn(2, 6)

    explainer = lrp.compile(model, (x,), target=1, wrt=("x", "weight"))

    relevance = explainer(x).relevance["weight"]
    torch.testing.assert_close(relevance[:, 1], (x * model.weight[:, 1]).sum(0), rtol=1e-5, atol=1e-6)
    assert relevance.shape == (6, 5)
