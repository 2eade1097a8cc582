"""A function's operations put into a graph: the same numbers, in one place, for the sake of one node."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import call, canonicalise
from lrp_compiler.passes.graph.inline import inline, trace_into, write_out
from lrp_compiler.passes.graph.origin import Origin, origin, set_origin

aten = torch.ops.aten
X, Y = (torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
WEIGHT = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)


class Gated(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.exp().tanh() * y


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch")}
    return torch.export.export(Gated(), (X, Y), dynamic_shapes=(batch, batch))


@pytest.fixture
def module(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """`tanh(exp x) · y`, of any batch size."""
    return unlift(program)


def named(module: fx.GraphModule, name: str) -> fx.Node:
    """The input of that name, or the call of that op."""
    return next(n for n in module.graph.nodes if name in (n.name, getattr(n.target, "_opname", "")))


def returning(module: fx.GraphModule, *results: fx.Node) -> fx.GraphModule:
    """The graph with other results."""
    module.graph.output_node().args = (results,)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def rows(count: int) -> tuple[Tensor, Tensor]:
    """Inputs of another batch size than the example's."""
    return torch.randn(count, 3, dtype=torch.float64), torch.randn(count, 3, dtype=torch.float64)


def test_operations_stand_in_front_of_their_place(module: fx.GraphModule, targets: Callable) -> None:
    x, y = rows(7)

    result = trace_into(named(module, "tanh"), lambda a, b: (a - b).sigmoid(), [named(module, "x"), named(module, "y")])

    assert targets(module) == ["exp", "sub", "sigmoid", "tanh", "mul"]
    assert result.target is aten.sigmoid.default
    (found,) = returning(module, result)(x, y)
    torch.testing.assert_close(found, (x - y).sigmoid(), rtol=0, atol=0)


def test_the_rest_of_the_graph_computes_what_it_did(module: fx.GraphModule) -> None:
    x, y = rows(2)
    (expected,) = module(x, y)

    trace_into(module.graph.output_node(), lambda a: a * 2, [named(module, "exp")])

    module.recompile()
    assert torch.equal(module(x, y)[0], expected)


def test_arguments_may_be_nested_named_and_plain(module: fx.GraphModule) -> None:
    x, y = rows(3)

    def function(pair: list[Tensor], factor: float, *, more: dict[str, Tensor]) -> Tensor:
        return pair[0] * factor + pair[1] / more["bottom"]

    given: list[Any] = [[named(module, "x"), named(module, "y")], 3.0]
    result = trace_into(module.graph.output_node(), function, given, {"more": {"bottom": named(module, "exp")}})

    (found,) = returning(module, result)(x, y)
    torch.testing.assert_close(found, x * 3.0 + y / x.exp(), rtol=0, atol=0)


def test_a_node_that_is_given_twice_is_one_value(module: fx.GraphModule) -> None:
    x, y = rows(3)
    node = named(module, "x")

    result = trace_into(module.graph.output_node(), lambda a, b: a * b, [node, node])

    assert result.args == (node, node)
    assert torch.equal(returning(module, result)(x, y)[0], x * x)


def test_a_function_that_hands_back_an_argument_makes_no_node(module: fx.GraphModule) -> None:
    node, before = named(module, "exp"), len(module.graph.nodes)

    assert trace_into(module.graph.output_node(), lambda a, b: b, [named(module, "x"), node]) is node
    assert len(module.graph.nodes) == before


def test_shapes_of_the_new_values_are_known_for_any_batch_size(module: fx.GraphModule) -> None:
    result = trace_into(module.graph.output_node(), lambda a: a.reshape(a.shape[0] * 3), [named(module, "x")])

    (length,) = result.meta["val"].shape
    assert str(length) == f"3*{named(module, 'x').meta['val'].shape[0]}"


def test_tracing_does_not_bound_the_batch_size(module: fx.GraphModule) -> None:
    """A convolution in float32 asks for it, to guess a memory format."""
    x = torch.arange(51.0, dtype=torch.float64).reshape(17, 3)
    kernel = torch.ones(2, 3, 1, 1)
    environment = named(module, "x").meta["val"].fake_mode.shape_env
    before = len(environment.guards), str(environment.var_to_range)

    result = trace_into(
        module.graph.output_node(), lambda a: torch.conv2d(a.float()[..., None, None], kernel), [named(module, "x")]
    )

    assert (len(environment.guards), str(environment.var_to_range)) == before
    (found,) = returning(module, result)(x, x)
    assert torch.equal(found[:, :, 0, 0], x.float().sum(1, keepdim=True).expand(-1, 2))


def test_tensors_of_the_function_become_constants_of_the_graph(module: fx.GraphModule) -> None:
    x, y = rows(2)
    module.register_buffer("_tensor_constant0", torch.zeros(3))

    result = trace_into(module.graph.output_node(), lambda a: a @ WEIGHT.T, [named(module, "x")])

    found = returning(module, result)
    (constant,) = found.graph.find_nodes(op="get_attr")
    assert constant.target == "_tensor_constant0_1"
    assert constant.meta["val"].shape == (2, 3)
    torch.testing.assert_close(found(x, y)[0], x @ WEIGHT.T, rtol=0, atol=0)
    assert torch.equal(found._tensor_constant0, torch.zeros(3))


def test_a_tensor_that_the_function_makes_leaves_no_op_that_changes_its_operands(module: fx.GraphModule) -> None:
    result = trace_into(
        module.graph.output_node(), lambda a: a * torch.tensor([1.0, 2.0, 3.0]), [named(module, "x")], tidy=canonicalise
    )

    found = returning(module, result)
    calls = [node.target for node in found.graph.nodes if node.op == "call_function"]
    assert not [target for target in calls if target._schema.is_mutable]


@pytest.mark.parametrize(("composite", "expected"), [(True, ["linear"]), (False, ["t", "mm"])])
def test_composite_ops_stay_whole_unless_they_are_to_be_taken_apart(
    composite: bool, expected: list[str], module: fx.GraphModule, targets: Callable
) -> None:
    x, y = rows(2)

    result = trace_into(
        module.graph.output_node(),
        lambda a: nn.functional.linear(a, WEIGHT),
        [named(module, "x")],
        composite=composite,
    )

    found = returning(module, result)
    assert targets(found) == expected
    torch.testing.assert_close(found(x, y)[0], x @ WEIGHT.T, rtol=1e-15, atol=1e-15)


def test_ops_of_a_table_are_written_out(module: fx.GraphModule, targets: Callable) -> None:
    x, y = rows(2)
    table = {aten.lerp.Scalar: lambda start, end, weight: start + (end - start) * weight}

    result = trace_into(
        module.graph.output_node(), lambda a, b: a.lerp(b, 0.25), [named(module, "x"), named(module, "y")], table=table
    )

    found = returning(module, result)
    assert targets(found) == ["sub", "mul", "add"]
    torch.testing.assert_close(found(x, y)[0], torch.lerp(x, y, 0.25), rtol=1e-15, atol=1e-15)


def test_what_is_traced_can_be_tidied_first(module: fx.GraphModule, targets: Callable) -> None:
    def function(a: Tensor) -> Tensor:
        return a.clone().view(-1) * 1

    result = trace_into(module.graph.output_node(), function, [named(module, "x")], tidy=canonicalise)

    assert targets(returning(module, result)) == ["reshape"]


def test_new_nodes_have_the_provenance_of_the_one_they_are_made_for(module: fx.GraphModule) -> None:
    like = named(module, "tanh")
    like.meta |= {"nn_module_stack": {"": ("body", nn.Tanh)}, "stack_trace": "a line"}
    known = Origin("relevance", "tanh", "body", "identity")
    set_origin(like, known.named("unit", ["exp"]))

    result = trace_into(like, lambda a: a.sin().cos(), [named(module, "x")], like=like)

    for node in (result, result.args[0]):
        assert (node.meta["nn_module_stack"], node.meta["stack_trace"]) == ({"": ("body", nn.Tanh)}, "a line")
        assert origin(node) == known  # not the relevance itself


def test_without_one_they_have_none_but_their_own(module: fx.GraphModule) -> None:
    set_origin(named(module, "tanh"), Origin("relevance", "tanh"))

    result = trace_into(named(module, "tanh"), lambda a: a.sin(), [named(module, "x")])

    assert origin(result) is None


def test_a_function_of_several_results_is_refused(module: fx.GraphModule) -> None:
    with pytest.raises(ValueError, match="too many values"):
        trace_into(module.graph.output_node(), lambda a: (a.sin(), a.cos()), [named(module, "x")])


# ---- For the sake of a node ----


def test_a_function_is_given_the_nodes_own_arguments(module: fx.GraphModule, targets: Callable) -> None:
    x, y = rows(5)
    mul = named(module, "mul")
    set_origin(mul, Origin("forward", "mul"))

    result = inline(mul, lambda a, b: a - b)

    assert targets(module) == ["exp", "tanh", "sub", "mul"]
    assert origin(result) == Origin("forward", "mul")
    assert torch.equal(returning(module, result)(x, y)[0], x.exp().tanh() - y)


def test_or_others(module: fx.GraphModule) -> None:
    x, y = rows(5)

    result = inline(named(module, "mul"), torch.add, (named(module, "y"), named(module, "exp")), {"alpha": 2})

    assert torch.equal(returning(module, result)(x, y)[0], torch.add(y, x.exp(), alpha=2))


def test_arguments_by_name_are_passed_by_name(module: fx.GraphModule) -> None:
    x, y = rows(2)
    output = module.graph.output_node()
    with module.graph.inserting_before(output):
        scaled = call(module.graph, aten.add.Tensor, named(module, "x"), named(module, "y"), alpha=2)

    result = inline(scaled, lambda a, b, *, alpha: a * alpha - b)

    assert torch.equal(returning(module, result)(x, y)[0], x * 2 - y)


# ---- In a node's place ----


def test_the_last_operation_takes_the_place_of_the_node(module: fx.GraphModule, targets: Callable) -> None:
    x, y = rows(2)
    tanh = named(module, "tanh")
    (expected,) = module(x, y)
    tanh.meta["custom"] = {"note": "mine"}
    meta = tanh.meta

    write_out(tanh, lambda a: (1 - (-2 * a).exp()) / (1 + (-2 * a).exp()))

    module.graph.lint()
    module.recompile()
    assert targets(module) == ["exp", "mul", "exp", "rsub", "mul", "exp", "add", "div", "mul"]
    (div,) = module.graph.find_nodes(op="call_function", target=aten.div.Tensor)
    assert div.meta is meta
    assert list(div.users) == list(module.graph.output_node().args[0])
    torch.testing.assert_close(module(x, y)[0], expected, rtol=1e-14, atol=1e-14)


def test_it_takes_over_its_name(module: fx.GraphModule) -> None:
    """Whoever knows the node by its name, as an ExportedProgram its outputs, finds the new one."""
    write_out(named(module, "tanh"), lambda a: a.sin().cos())

    (cos,) = module.graph.find_nodes(op="call_function", target=aten.cos.default)
    assert cos.name == "tanh"
