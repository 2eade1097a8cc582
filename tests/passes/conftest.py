"""Graphs to try passes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from lrp_compiler.passes.decompose import written_out
from lrp_compiler.passes.forward.unlift import unlift


class Wrapped(nn.Module):
    """A function, and perhaps submodules that it uses, as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., fx.GraphModule]:
    """`graph_of(model or function, *example inputs, dynamic=True)`: the forward graph before any rewriting."""

    def make(model: Any, *args: torch.Tensor, dynamic: bool = False) -> fx.GraphModule:
        module = model if isinstance(model, nn.Module) else Wrapped(model)
        shapes: Any = tuple({0: torch.export.Dim("batch")} for _ in args) if dynamic else None
        if shapes is not None and not isinstance(model, nn.Module):
            shapes = (shapes,)
        program = torch.export.export(module.eval(), args, dynamic_shapes=shapes)
        return unlift(written_out(program))

    return make


@pytest.fixture(scope="session")
def targets() -> Callable[[fx.GraphModule], list[str]]:
    """`targets(graph)`: the ops that it calls, in order, without overloads."""

    def names(module: fx.GraphModule) -> list[str]:
        calls = [node for node in module.graph.nodes if node.op == "call_function"]
        return [str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.") for node in calls]

    return names
