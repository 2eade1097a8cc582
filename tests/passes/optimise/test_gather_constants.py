"""What is added to a map and depends on no input becomes its bias; everything else stays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from lrp_compiler.passes.optimise.gather_constants import gather_constants

SHAPES = ((4, 3, 3, 3), (4, 3, 3, 3), (4, 6))
G = torch.Generator().manual_seed(0)
WEIGHT, OTHER, DENSE = (
    torch.randn(shape, dtype=torch.float64, generator=G) for shape in ((4, 3, 3, 3),) * 2 + ((4, 6),)
)
BIAS, MAP = (torch.randn(shape, dtype=torch.float64, generator=G) for shape in ((4,), (4, 6, 6)))
IMAGE, ROWS = (torch.randn(shape, dtype=torch.float64, generator=G) for shape in ((2, 3, 8, 8), (2, 5, 6)))


class Held(nn.Module):
    """A function of the input and of tensors that are the module's own."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        for name, value in {"w": WEIGHT, "v": OTHER, "d": DENSE, "b": BIAS, "m": MAP}.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


conv, linear = torch.conv2d, nn.functional.linear
GATHERED: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "number": (lambda s, x: conv(x, s.w) + 0.5, IMAGE),
    "channels": (lambda s, x: conv(x, s.w) + s.b.reshape(-1, 1, 1), IMAGE),
    "channels and number": (lambda s, x: (conv(x, s.w) + s.b.clamp(min=0).reshape(1, -1, 1, 1)) + 1e-6, IMAGE),
    "two maps": (lambda s, x: conv(x, s.w) + conv(x.abs(), s.v) + s.b.reshape(-1, 1, 1) + 1e-6, IMAGE),
    "strided": (lambda s, x: conv(x, s.w, None, 2, 1) + 3, IMAGE),
    "one scalar": (lambda s, x: conv(x, s.w) + s.b[0], IMAGE),
    "linear": (lambda s, x: linear(x, s.d) + s.b + 2, ROWS),
}
KEPT: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "a whole map": (lambda s, x: conv(x, s.w) + s.m, IMAGE),
    "a bias already": (lambda s, x: conv(x, s.w, s.b) + 1, IMAGE),
    "an input": (lambda s, x: conv(x, s.w) + x.mean(), IMAGE),
    "read by others": (lambda s, x: (z := conv(x, s.w)).abs() / (z + 1), IMAGE),
    "along another dim": (lambda s, x: linear(x, s.d) + s.d[:, :5].reshape(4, 1, 5, 1)[0], ROWS),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", GATHERED)
def test_constants_become_the_bias(name: str, graph_of: Callable, targets: Callable) -> None:
    function, x = GATHERED[name]
    graph = graph_of(Held(function), x)

    result = gather_constants(graph)

    assert result.modified
    maps = [node for node in result.graph_module.graph.nodes if node.target in MAPS and len(node.all_input_nodes) == 3]
    assert len(maps) == 1
    over_positions = [node for node in result.graph_module.graph.nodes if str(node.target) == "aten.add.Tensor"]
    assert sum(node.meta["val"].dim() > 1 for node in over_positions) == ("two" in name)
    torch.testing.assert_close(result.graph_module(x)[0], function(Held(function), x), rtol=1e-12, atol=1e-12)


MAPS = {torch.ops.aten.conv2d.default, torch.ops.aten.linear.default}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", KEPT)
def test_anything_else_stays(name: str, graph_of: Callable) -> None:
    function, x = KEPT[name]

    result = gather_constants(graph_of(Held(function), x))

    assert not result.modified
    torch.testing.assert_close(result.graph_module(x)[0], function(Held(function), x), rtol=1e-12, atol=1e-12)


@pytest.mark.heavy
def test_a_sum_may_be_deeper_than_pythons_stack(graph_of: Callable) -> None:
    graph = fx.Graph()
    x, weight = (graph.placeholder(name) for name in ("x", "weight"))
    total = graph.call_function(torch.ops.aten.linear.default, (x, weight))
    for _ in range(2000):
        total = graph.call_function(torch.ops.aten.add.Tensor, (total, 0.5))
    graph.output((total,))
    module = with_values(fx.GraphModule(nn.Module(), graph), ROWS, DENSE)

    result = gather_constants(module)

    assert result.modified
    expected = torch.nn.functional.linear(ROWS, DENSE) + 1000
    torch.testing.assert_close(result.graph_module(ROWS, DENSE)[0], expected, rtol=1e-12, atol=1e-12)


def with_values(module: fx.GraphModule, *inputs: Tensor) -> fx.GraphModule:
    """The module, every node with its symbolic value."""
    mode = torch._subclasses.FakeTensorMode(shape_env=ShapeEnv())
    values = iter(mode.from_tensor(value) for value in inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            node.meta["val"] = next(values)
        elif node.op == "call_function":
            node.meta["val"] = node.target(*fx.map_arg(node.args, lambda operand: operand.meta["val"]))
    return module


def test_why_a_sum_is_let_be_is_said(graph_of: Callable) -> None:
    function, x = KEPT["along another dim"]

    declined = gather_constants(graph_of(Held(function), x)).declined

    assert [reason for _, reason in declined] == ["its constants are no bias: they differ along other dims"]


def test_a_map_that_is_read_elsewhere_keeps_its_value(graph_of: Callable) -> None:
    def function(held: nn.Module, x: Tensor) -> Tensor:
        mapped = torch.nn.functional.linear(x, held.d)
        return (mapped + held.b).relu() * mapped

    result = gather_constants(graph_of(Held(function), ROWS))

    assert not result.modified
    assert [reason for _, reason in result.declined] == ["linear is read or asked for elsewhere, too"]
