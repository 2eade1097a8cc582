"""Small helpers that every pass uses."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph.origin import Origin, origin, set_origin
from lrp_compiler.passes.graph.tools import (
    add_constant,
    attribute,
    call,
    call_like,
    called,
    constant_of,
    inside,
    is_tensor,
    keep_tensor,
    module_calls,
    module_path,
    module_types,
    nearest,
    outputs,
    same_shape,
    source_line,
)

aten = torch.ops.aten
X = torch.ones(4, 3)


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Inner()])
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        for inner in self.inner:
            x = inner(inner(x))
        return x * self.weight + x.shape[0]


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.export.export(Outer().eval(), (X,), dynamic_shapes=shapes)


@pytest.fixture
def module(program: torch.export.ExportedProgram) -> fx.GraphModule:
    return unlift(program)


def of_op(module: fx.GraphModule, name: str) -> list[fx.Node]:
    return [node for node in module.graph.nodes if getattr(node.target, "_opname", "") == name]


# ---- Nodes ----


def test_a_tensor_is_a_node_whose_value_is_one(module: fx.GraphModule) -> None:
    (size,) = of_op(module, "sym_size")
    unknown = fx.Graph().placeholder("x")

    assert [is_tensor(item) for item in (of_op(module, "mul")[0], size, unknown, X, None)] == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_what_has_several_results_has_the_shape_of_nothing() -> None:
    graph = torch.fx.Graph()
    x, pair = graph.placeholder("x"), graph.placeholder("pair")
    x.meta["val"], pair.meta["val"] = torch.ones(2), (torch.ones(2), torch.ones(2))

    assert same_shape(x, x)
    assert not same_shape(x, pair)
    assert not same_shape(pair, pair)


def test_outputs_are_a_flat_list_that_may_be_changed(module: fx.GraphModule) -> None:
    flat = outputs(module)

    assert flat == of_op(module, "add")
    flat.append(None)
    assert len(outputs(module)) == 1


# ---- Where a node was traced ----


def test_a_node_knows_the_modules_that_it_was_traced_in(module: fx.GraphModule) -> None:
    first, second = of_op(module, "exp")

    assert [module_path(node) for node in (first, second, *of_op(module, "mul"))] == ["inner.0", "inner.0", ""]
    assert module_calls(first) == {"": "", "inner.0": "inner.0"}
    assert module_calls(second) == {"": "", "inner.0@1": "inner.0"}
    assert module_types(first) == ("Outer", "Inner")
    assert module_types(of_op(module, "mul")[0]) == ("Outer",)


def test_a_class_that_tracing_noted_as_itself_is_named_alike() -> None:
    node = fx.Graph().placeholder("x")
    node.meta["nn_module_stack"] = {"": ("", Outer), "L__self__inner": ("inner", "package.module.Inner")}

    assert module_types(node) == ("Outer", "Inner")
    assert module_calls(node) == {"": "", "inner": "inner"}


@pytest.mark.parametrize("stack", [None, {}, {"": ("_empty_nn_module_stack_from_metadata_hook", "")}])
def test_a_node_whose_module_is_lost_belongs_to_the_model_itself(stack: Any) -> None:
    node = fx.Graph().placeholder("x")
    node.meta["nn_module_stack"] = stack

    assert module_path(node) == ""


@pytest.mark.parametrize(
    ("pattern", "is_called", "lie_inside"),
    [
        ("a.b", ["a.b"], ["a.b", "a.b.c", "a.b.c.d"]),
        ("a.*", ["a.b", "a.bc"], ["a.b", "a.b.c", "a.b.c.d", "a.bc"]),
        ("*.b", ["a.b"], ["a.b", "a.b.c", "a.b.c.d"]),
        ("**.c", ["a.b.c"], ["a.b.c", "a.b.c.d"]),
        ("a.**", ["a.b", "a.b.c", "a.b.c.d", "a.bc"], ["a.b", "a.b.c", "a.b.c.d", "a.bc"]),
        ("**", ["a", "a.b", "a.b.c", "a.b.c.d", "a.bc", "axb"], ["a", "a.b", "a.b.c", "a.b.c.d", "a.bc", "axb"]),
        ("a.b*", ["a.b", "a.bc"], ["a.b", "a.b.c", "a.b.c.d", "a.bc"]),
        ("a.?", [], []),
        ("axb", ["axb"], ["axb"]),
        ("*", ["a", "axb"], ["a", "a.b", "a.b.c", "a.b.c.d", "a.bc", "axb"]),
        ("b", [], []),
    ],
)
def test_a_pattern_names_modules(pattern: str, is_called: list[str], lie_inside: list[str]) -> None:
    paths = ["a", "a.b", "a.b.c", "a.b.c.d", "a.bc", "axb"]

    assert [path for path in paths if called(path, pattern)] == is_called
    assert [path for path in paths if inside(path, pattern)] == lie_inside


def test_the_choices_that_are_written_most_like_a_name_come_first() -> None:
    choices = ["encoder.layer.0", "decoder", "encoder.layer.1", "", "head", "decoder"]

    assert sorted(nearest("encoder.layer.2", choices, 2).split(", ")) == ["encoder.layer.0", "encoder.layer.1"]
    assert nearest("haed", choices, 1) == "head"


def test_where_none_is_alike_some_are_shown() -> None:
    assert nearest("qqq", ["b", "a", "", "c", "d"]) == "a, b, c"
    assert nearest("qqq", []) == ""


TRACE = """
  File "a.py", line 3, in forward
    return f(x)
  File "b.py", line 7, in f
    return x + 1
"""


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (TRACE, "b.py:7: return x + 1"),
        ('  File "b.py", line 7, in f\n', "b.py:7"),
        ("no frame at all", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_source_line_is_that_of_the_innermost_frame(trace: str | None, line: str) -> None:
    node = fx.Graph().placeholder("x")
    node.meta["stack_trace"] = trace

    assert source_line(node) == line


# ---- New nodes ----


def test_a_call_knows_its_value_and_has_the_provenance_of_another(module: fx.GraphModule) -> None:
    (mul,) = of_op(module, "mul")
    set_origin(mul, Origin("forward", "mul"))
    with module.graph.inserting_before(module.graph.output_node()):
        made = call(module.graph, aten.sum.dim_IntList, mul, [1], keepdim=True, like=mul)
        bare = call(module.graph, aten.neg.default, mul)

    assert (made.args, made.kwargs) == ((mul, [1]), {"keepdim": True})
    assert made.meta["val"].shape == (mul.meta["val"].shape[0], 1)
    for key in ("nn_module_stack", "stack_trace"):
        assert made.meta[key] == mul.meta[key]
        assert key not in bare.meta
    assert origin(made) is None


def test_a_call_for_the_same_purpose_shares_the_origin_too(module: fx.GraphModule) -> None:
    (mul,) = of_op(module, "mul")
    known = Origin("relevance", "mul", "", "epsilon")
    set_origin(mul, known.named("unit", ["x"]))

    with module.graph.inserting_before(module.graph.output_node()):
        made = call_like(module.graph, mul, aten.add.Tensor, mul, 1)

    assert origin(made) == known
    assert made.meta["stack_trace"] == mul.meta["stack_trace"]


def test_working_out_a_value_does_not_bound_the_batch_size(module: fx.GraphModule) -> None:
    """A convolution in float32 asks for it, to guess a memory format."""
    (mul,) = of_op(module, "mul")
    environment = mul.meta["val"].fake_mode.shape_env
    before = len(environment.guards), str(environment.var_to_range)

    with module.graph.inserting_before(module.graph.output_node()):
        weight = add_constant(module, "kernel", torch.ones(2, 3, 1, 1), mul.meta["val"])
        row = call(module.graph, aten.unsqueeze.default, mul, -1)
        call(module.graph, aten.conv2d.default, call(module.graph, aten.unsqueeze.default, row, -1), weight)

    assert (len(environment.guards), str(environment.var_to_range)) == before


# ---- Tensors of a module ----


def test_every_tensor_gets_a_flat_name_of_its_own() -> None:
    root = nn.Module()

    names = [keep_tensor(root, name, torch.tensor(float(n))) for n, name in enumerate(["a.b", "a_b", "a.b", "c"])]

    assert names == ["a_b", "a_b_1", "a_b_2", "c"]
    assert [float(getattr(root, name)) for name in names] == [0.0, 1.0, 2.0, 3.0]


def test_a_name_that_modules_have_is_not_taken() -> None:
    root = nn.Module()

    name = keep_tensor(root, "forward", X)

    assert name == "forward_1"
    assert root.state_dict().keys() == {"forward_1"}


def test_a_constant_is_read_from_the_module(module: fx.GraphModule) -> None:
    (mul,) = of_op(module, "mul")
    tensor = torch.tensor([1.0, 2.0, 3.0])
    with module.graph.inserting_before(module.graph.output_node()):
        constant = add_constant(module, "a.weight", tensor, mul.meta["val"])
        product = call(module.graph, aten.mul.Tensor, mul, constant)
    module.graph.output_node().args = ((product,),)
    module.recompile()

    assert (constant.op, constant.target) == ("get_attr", "a_weight")
    assert constant.meta["val"].fake_mode is mul.meta["val"].fake_mode
    assert constant.meta["val"].shape == (3,)
    assert constant_of(module, constant) is tensor
    assert torch.equal(module(X)[0], X.exp().exp() * tensor)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
def test_only_a_tensor_that_the_module_holds_is_a_constant(module: fx.GraphModule) -> None:
    module.number = 3
    (mul,) = of_op(module, "mul")
    with module.graph.inserting_before(mul):
        number = module.graph.get_attr("number")

    assert constant_of(module, module.graph.find_nodes(op="get_attr")[0]) is module.weight
    assert [constant_of(module, item) for item in (number, mul, None, X)] == [None] * 4


def test_an_attribute_is_found_at_its_dotted_path() -> None:
    model = Outer()

    assert attribute(model, "weight") is model.weight
    assert attribute(model, "inner") is model.inner
    with pytest.raises(AttributeError):
        attribute(model, "inner.weight")


class Twice(nn.Module):
    """One module called twice, another one between."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(self.two(self.one(x)))


@pytest.mark.parametrize("strict", [False, True])
def test_calls_are_named_by_paths_however_the_model_was_exported(strict: bool) -> None:
    """A strict export notes modules by numbers."""
    program = torch.export.export(Twice(), (torch.randn(2, 4),), strict=strict)
    calls = [list(module_calls(node)) for node in program.graph.nodes if node.target == torch.ops.aten.linear.default]
    assert calls == [["", "one", "one.0"], ["", "two"], ["", "one@1", "one.0@1"]]
