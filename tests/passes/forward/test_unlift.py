"""A program's nodes in a plain graph that reads its own weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from lrp_compiler.passes.forward.unlift import unlift

X = torch.randn(2, 3)


def test_weights_are_read_from_the_graph_and_shared_with_the_model(graph_of: Callable) -> None:
    model = nn.Linear(3, 4)

    module = graph_of(model, X)

    FileCheck().check("def forward(self, input)").check("self.weight").check("aten.linear").run(module.code)
    assert module.weight.data_ptr() == model.weight.data_ptr()
    torch.testing.assert_close(module(X)[0], model(X))


def test_outputs_are_a_flat_tuple_and_plain_inputs_are_baked_in() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, factor: float, other: None) -> dict[str, Tensor]:
            return {"a": x * factor, "b": x + 1}

    module = unlift(torch.export.export(Model().eval(), (X, 3.0, None)))

    assert len(module.graph.find_nodes(op="placeholder")) == 1
    first, second = module(X)
    assert torch.equal(first, X * 3)
    assert torch.equal(second, X + 1)


def test_unused_weights_are_left_out(graph_of: Callable) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.used

    assert [name for name, _ in graph_of(Model(), X).named_buffers()] == ["used"]


def test_a_program_that_changes_its_buffers_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(Exception, match="count"):
        unlift(torch.export.export(Model().eval(), (X,)).run_decompositions({}))
