"""What does nothing goes; what does something stays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

aten = torch.ops.aten


def targets(module: torch.fx.GraphModule) -> list:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def test_whole_slices_and_checks_go(captured: Callable) -> None:
    module = captured(lambda x: x[:, :, :].float()[:, 1:].exp(), 4)

    assert [target for target in targets(module) if target in (aten.slice.Tensor, aten.exp.default)] == [
        aten.slice.Tensor,
        aten.exp.default,
    ]
    assert aten._assert_tensor_metadata.default not in targets(module)


@pytest.mark.slow
def test_a_write_of_the_same_kind_is_what_is_written(captured: Callable) -> None:
    def write(x: Tensor) -> Tensor:
        out = torch.zeros(2, 4, 3)
        out[:, 1] = x[:, 0]
        return out

    def broadcast(x: Tensor) -> Tensor:
        out = torch.zeros(2, 4, 3)
        out[:, 1] = x[:1, 0]
        return out

    assert aten.copy.default not in targets(captured(write, 4))
    assert aten.expand.default in targets(captured(broadcast, 4))
