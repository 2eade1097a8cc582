"""torch made quicker from outside does what torch does by itself, and is torch again afterwards."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small import small
from torch import Tensor
from torch._ops import OperatorBase
from torch.onnx._internal.exporter._registration import ONNXRegistry

from lrp_compiler.passes.decompose.table import decomposition_table
from lrp_compiler.torch_private import (
    changed,
    composites_noted_quickly,
    hold_what_is_in,
    largest,
    pools_stay_open,
    translations_read_once,
    unguarded,
)


def what_is_registered(opset: int) -> dict[Any, list[Any]]:
    functions = ONNXRegistry.from_torchlib(opset).functions
    return {op: [each.onnx_function for each in found] for op, found in functions.items()}


@pytest.mark.parametrize("opset", [18])
def test_the_translations_are_those_that_torch_reads(opset: int) -> None:
    torchs = what_is_registered(opset)
    with translations_read_once():
        assert [what_is_registered(opset), what_is_registered(opset)] == [torchs, torchs]


def test_what_is_registered_for_one_file_does_not_reach_the_next() -> None:
    with translations_read_once():
        before = what_is_registered(18)
        registry = ONNXRegistry.from_torchlib(18)
        registry.register_op(torch.ops.aten.relu.default, lambda x: x)
        assert registry.functions[torch.ops.aten.relu.default.name()][0].is_custom
        assert what_is_registered(18) == before


def test_operators_of_a_library_that_came_later_are_read() -> None:
    with translations_read_once():
        first = ONNXRegistry.from_torchlib(18)
        library = torch.library.Library("came_later", "DEF")
        library.define("twice(Tensor x) -> Tensor")
        later, again = ONNXRegistry.from_torchlib(18), ONNXRegistry.from_torchlib(18)
    read_for = [registry.functions["aten::sort"][0] for registry in (first, later, again)]
    assert read_for[0] is not read_for[1]
    assert read_for[1] is read_for[2]


@pytest.mark.slow
def test_a_program_is_written_out_as_torch_does_it() -> None:
    example = small("gpt2")
    program = torch.export.export(example.model, example.args, example.kwargs, dynamic_shapes=example.dynamic_shapes)
    torchs = program.run_decompositions(decomposition_table()).graph_module.code
    with composites_noted_quickly():
        assert program.run_decompositions(decomposition_table()).graph_module.code == torchs


@pytest.mark.parametrize("block", [translations_read_once, composites_noted_quickly, pools_stay_open])
def test_torch_is_as_it_was(block: Callable[[], Any]) -> None:
    def parts() -> list[Any]:
        from torch import _meta_registrations
        from torch._export import utils

        shapes: Any = _meta_registrations
        return [
            shapes.pooling_output_shape_pad_lr,
            vars(ONNXRegistry)["from_torchlib"],
            OperatorBase.py_impl,
            utils._materialize_cpp_cia_ops,
        ]

    before = parts()
    with contextlib.suppress(KeyError), block(), block():
        assert parts() != before
        raise KeyError
    assert parts() == before


def test_a_module_holds_what_another_does_and_more_of_its_own() -> None:
    other = torch.nn.BatchNorm1d(3)
    other.inner = torch.nn.Linear(3, 2)
    other.register_buffer("passing", torch.zeros(2), persistent=False)
    module = torch.nn.Module()

    hold_what_is_in(module, other)

    assert dict(module.named_parameters()) == dict(other.named_parameters())
    assert module.state_dict().keys() == other.state_dict().keys()
    assert module.passing is other.passing
    module.inner = torch.nn.ReLU()
    module.register_buffer("more", torch.zeros(2), persistent=False)
    assert isinstance(other.inner, torch.nn.Linear)
    assert "more" not in dict(other.named_buffers())
    assert "passing" not in other.state_dict()


def test_a_program_is_changed_in_what_is_said_and_nothing_else() -> None:
    x = torch.randn(2, 3)
    program = torch.export.export(torch.nn.Linear(3, 2).eval(), (x,))
    expected = program.module()(x)

    doubled = changed(
        program, state_dict={name: torch.nn.Parameter(2 * value) for name, value in program.state_dict.items()}
    )

    torch.testing.assert_close(doubled.module()(x), 2 * expected, rtol=0, atol=0)
    assert torch.equal(program.module()(x), expected)
    assert doubled.graph_signature is program.graph_signature
    assert doubled.example_inputs is program.example_inputs


@pytest.mark.parametrize(
    ("size", "found"), [(torch.export.Dim("size"), (7, 14, 8)), (torch.export.Dim("size", max=50), (50, 100, 51))]
)
def test_the_most_that_a_size_may_be(size: Any, found: tuple[int, ...]) -> None:
    class Same(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    program = torch.export.export(Same(), (torch.randn(7, 3),), dynamic_shapes=({0: size},))
    value = next(node for node in program.graph.nodes if node.op == "placeholder").meta["val"].shape[0]
    assert (largest(value), largest(value * 2), largest(value + 1)) == found
    assert largest(5) == 5


@pytest.mark.parametrize("operation", [lambda x: x / 2, lambda x: x + x.new_ones(3), lambda x: x.softmax(-1) * 3 - x])
def test_a_size_that_is_one_in_the_example_by_chance_stays_open(operation: Callable[[Tensor], Tensor]) -> None:
    """All but the last of two tokens: by itself torch makes a size of 1 of it as soon as nothing may be learnt."""

    class Texts(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    shapes = {"x": {0: torch.export.Dim("tokens", min=2)}}
    program = torch.export.export(Texts(), (torch.randn(2, 3),), dynamic_shapes=shapes)
    (node,) = [node for node in program.graph.nodes if node.name == "mul"]
    value = node.meta["val"]
    with unguarded(node), value.fake_mode:
        shorter = value[:-1]
        found = operation(shorter)
    assert shorter.shape[0] == 1  # in the example
    assert found.shape[0].node.expr == shorter.shape[0].node.expr


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil"),
    [
        (3, 2, 1, 1, False),
        (3, 2, 1, 1, True),
        (2, 2, 0, 1, True),
        (2, 3, 1, 1, True),
        (1, 4, 0, 1, True),
        (3, 5, 1, 2, True),
    ],
)
def test_a_pool_in_steps_takes_all_sizes_alike(
    kernel: int, stride: int, padding: int, dilation: int, ceil: bool
) -> None:
    sizes = {2: torch.export.Dim("height", min=6), 3: torch.export.Dim("width", min=6)}
    model = torch.nn.MaxPool2d(kernel, stride, padding=padding, dilation=dilation, ceil_mode=ceil)
    with pools_stay_open():
        program = torch.export.export(model, (torch.randn(2, 3, 16, 14),), dynamic_shapes=(sizes,))
    (shape,) = (node.meta["val"].shape for node in program.graph.nodes if "pool" in str(node.target))
    for height, width in itertools.product(range(6, 18), (9, 14)):
        x = torch.randn(2, 3, height, width)
        result = model(x)
        assert torch.equal(program.module()(x), result)

        free = shape[2].node.expr.free_symbols
        assert len(free) == 1
        assert int(shape[2].node.expr.subs(dict.fromkeys(free, height))) == result.shape[2]
