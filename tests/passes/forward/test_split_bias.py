"""Biases become additions, for composites that take every primitive by itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.assigned import captured
from torch import Tensor, fx, nn

from lrp_compiler.passes.forward.split_bias import split_bias
from lrp_compiler.passes.graph import simplify
from lrp_compiler.rules import TRAITS

aten = torch.ops.aten


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


class Call(nn.Module):
    """An op of the input and of weights."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        for number, weight in enumerate(weights):
            self.register_buffer(f"weight{number}", weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(buffer for _, buffer in self.named_buffers()))


Case = tuple[Callable[..., Tensor], Tensor, tuple[Tensor, ...], Any, list[str]]
CASES: dict[Any, Case] = {
    aten.linear.default: (
        lambda x, w, b: nn.functional.linear(x, w, b),
        drawn(2, 5, 4),
        (drawn(3, 4), drawn(3)),
        aten.linear.default,
        ["linear", "add"],
    ),
    aten.conv1d.default: (
        lambda x, w, b: torch.conv1d(x, w, b, 2, 1),
        drawn(2, 4, 7),
        (drawn(3, 4, 2), drawn(3)),
        aten.conv1d.default,
        ["reshape", "conv1d", "add"],
    ),
    aten.conv2d.default: (
        lambda x, w, b: torch.conv2d(x, w, b, [1, 2], [1, 0], 1, 2),
        drawn(2, 4, 5, 6),
        (drawn(6, 2, 3, 2), drawn(6)),
        aten.conv2d.default,
        ["reshape", "conv2d", "add"],
    ),
    aten.conv3d.default: (
        lambda x, w, b: torch.conv3d(x, w, b),
        drawn(2, 2, 3, 4, 3),
        (drawn(3, 2, 2, 2, 2), drawn(3)),
        aten.conv3d.default,
        ["reshape", "conv3d", "add"],
    ),
    aten.conv_transpose1d.default: (
        lambda x, w, b: torch.conv_transpose1d(x, w, b, 2),
        drawn(2, 4, 5),
        (drawn(4, 3, 2), drawn(3)),
        aten.conv_transpose1d.default,
        ["reshape", "conv_transpose1d", "add"],
    ),
    aten.conv_transpose2d.input: (
        lambda x, w, b: torch.conv_transpose2d(x, w, b, 2, 1, 1),
        drawn(2, 4, 3, 3),
        (drawn(4, 3, 2, 2), drawn(3)),
        aten.conv_transpose2d.input,
        ["reshape", "conv_transpose2d", "add"],
    ),
    aten.conv_transpose3d.input: (
        lambda x, w, b: torch.conv_transpose3d(x, w, b),
        drawn(2, 2, 2, 2, 2),
        (drawn(2, 3, 2, 2, 2), drawn(3)),
        aten.conv_transpose3d.input,
        ["reshape", "conv_transpose3d", "add"],
    ),
    aten.convolution.default: (
        lambda x, w, b: aten.convolution.default(x, w, b, [2], [0], [1], True, [1], 1),
        drawn(2, 4, 5),
        (drawn(4, 3, 2), drawn(3)),
        aten.convolution.default,
        ["reshape", "convolution", "add"],
    ),
    aten.addmm.default: (
        lambda x, w, b: torch.addmm(b, x, w),
        drawn(2, 4),
        (drawn(4, 3), drawn(3)),
        aten.mm.default,
        ["mm", "add"],
    ),
}
"""Op with a bias → a call of it, the input, the weights, the op that is left, all that is left."""


@pytest.mark.parametrize("op", [op for op, known in TRAITS.items() if known.bias is not None], ids=str)
def test_a_bias_is_added_to_the_map(op: Any, targets: Callable) -> None:
    function, example, weights, map_, left = CASES[op]
    module = captured(Call(function, *weights), example)
    assert module.graph.find_nodes(op="call_function", target=op)

    result = split_bias(module)

    assert result.modified
    assert result.declined == ()
    assert targets(result.graph_module) == left
    (found,) = result.graph_module.graph.find_nodes(op="call_function", target=map_)
    assert len(found.all_input_nodes) == 2  # the input and the weight
    x = torch.randn(3, *example.shape[1:], dtype=torch.float64)
    torch.testing.assert_close(result.graph_module(x)[0], function(x, *weights), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("factor", ["alpha", "beta"])
def test_a_bias_with_a_factor_stays(factor: str, targets: Callable) -> None:
    model = Call(lambda x, w, b: torch.addmm(b, x, w, **{factor: 2}), drawn(4, 3), drawn(3))

    result = split_bias(captured(model, drawn(2, 4)))

    assert not result.modified
    assert targets(result.graph_module) == ["addmm"]
    assert result.declined == (("addmm", "its bias or its product has a factor"),)


def test_a_bias_without_a_batch_is_added_to_its_channels() -> None:
    weight, bias, example = drawn(6, 4, 2, 2), drawn(6), drawn(4, 5, 5)
    model = Call(lambda x, w, b: torch.conv2d(x, w, b), weight, bias)

    module = split_bias(captured(model, example, dynamic=False)).graph_module

    torch.testing.assert_close(module(example)[0], torch.conv2d(example, weight, bias), rtol=1e-13, atol=1e-13)


def test_new_nodes_are_where_the_old_one_was_in_the_model() -> None:
    module = captured(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.ones(2, 3))
    (linear,) = module.graph.find_nodes(op="call_function", target=aten.linear.default)
    stack, value = linear.meta["nn_module_stack"], linear.meta["val"]

    split_bias(module)

    (mapped,) = module.graph.find_nodes(op="call_function", target=aten.linear.default)
    (added,) = module.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    for node in (mapped, added):
        assert node.meta["nn_module_stack"] == stack
        assert (node.meta["val"].shape, node.meta["val"].dtype) == (value.shape, value.dtype)


WEIGHT = drawn(4, 3)
KEPT: dict[str, Callable[..., Tensor]] = {
    "without a bias": lambda x, b: nn.functional.linear(x, WEIGHT.T),
    "a share of the bias": lambda x, b: torch.addmm(b, x, WEIGHT, beta=0.5),
    "a share of the product": lambda x, b: torch.addmm(b, x, WEIGHT, alpha=2),
    "no map": lambda x, b: x[:, :3] + b,
}


@pytest.mark.parametrize("name", KEPT)
def test_anything_else_stays(name: str) -> None:
    module: fx.GraphModule = captured(Call(KEPT[name], drawn(3)), drawn(2, 4))
    before = str(module.graph)

    result = split_bias(module)

    assert not result.modified
    assert str(result.graph_module.graph) == before


def test_clean_up_finds_nothing_more_to_do(targets: Callable) -> None:
    module = split_bias(captured(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), torch.ones(2, 3))).graph_module

    assert targets(simplify(module).graph_module) == ["linear", "add", "linear", "add"]
