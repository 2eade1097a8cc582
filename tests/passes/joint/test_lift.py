"""A plain graph module as an exported program: the inverse of `unlift`, without tracing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.assigned import captured
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.joint.lift import lift


class Net(nn.Module):
    """A weight that is read twice, integers beside floats, several results."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 3, bias=False)

    def forward(self, ids: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        h = self.head(self.head(self.table(ids))) * scale.unsqueeze(-1)
        return h, h.sum(1)


IDS, SCALE = torch.tensor([[1, 2, 6, 0], [0, 5, 5, 3]]), torch.rand(2, 4, dtype=torch.float64)


@pytest.fixture
def module() -> fx.GraphModule:
    return captured(Net().double(), IDS, SCALE)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_program_computes_what_the_module_does_at_any_batch_size(batch: int, module: fx.GraphModule) -> None:
    program = lift(module)

    ids, scale = torch.randint(7, (batch, 4)), torch.rand(batch, 4, dtype=torch.float64)
    for found, expected in zip(program.module(check_guards=False)(ids, scale), module(ids, scale), strict=True):
        assert torch.equal(found, expected)


def test_inputs_of_one_batch_size_are_compared(module: fx.GraphModule) -> None:
    """As torch runs a program by default, a saved one for example."""
    run = lift(module).module()

    assert torch.equal(run(IDS, SCALE)[0], module(IDS, SCALE)[0])
    with pytest.raises(AssertionError, match="Guard failed"):
        run(IDS, SCALE[:1])


def test_weights_are_buffers_and_shared(module: fx.GraphModule) -> None:
    program = lift(module)

    kinds = [(spec.kind, spec.target) for spec in program.graph_signature.input_specs]
    assert kinds == [
        (InputKind.BUFFER, "table_weight"),
        (InputKind.BUFFER, "head_weight"),
        (InputKind.USER_INPUT, None),
        (InputKind.USER_INPUT, None),
    ]
    assert {name: tensor.data_ptr() for name, tensor in program.state_dict.items()} == {
        name: tensor.data_ptr() for name, tensor in module.state_dict().items()
    }


def test_a_weight_that_is_read_twice_is_one_input() -> None:
    graph, root = fx.Graph(), nn.Module()
    root.register_buffer("weight", torch.ones(3))
    x = graph.placeholder("x")
    first, second = graph.get_attr("weight"), graph.get_attr("weight")
    product = graph.call_function(torch.ops.aten.mul.Tensor, (x, first))
    total = graph.call_function(torch.ops.aten.add.Tensor, (product, second))
    graph.output((total,))
    for node in graph.nodes:
        node.meta["val"] = torch.ones(3)

    program = lift(fx.GraphModule(root, graph))

    assert [spec.target for spec in program.graph_signature.input_specs] == ["weight", None]
    assert program.module()(torch.tensor([1.0, 2.0, 3.0]))[0].tolist() == [2.0, 3.0, 4.0]


def test_unlifting_gives_the_module_back(module: fx.GraphModule) -> None:
    again = unlift(lift(module))

    assert [node.target for node in again.graph.nodes if node.op == "call_function"] == [
        node.target for node in module.graph.nodes if node.op == "call_function"
    ]
    assert [node.name for node in again.graph.find_nodes(op="placeholder")] == ["ids", "scale"]
    for found, expected in zip(again(IDS, SCALE), module(IDS, SCALE), strict=True):
        assert torch.equal(found, expected)


def test_the_module_stays_as_it_is(module: fx.GraphModule) -> None:
    before = module.code

    lift(module)

    module.recompile()
    assert module.code == before


def test_an_open_size_begins_at_one(module: fx.GraphModule) -> None:
    """torch counts it from 2, since it never tells 0 and 1 from the rest."""
    (size,) = {str(node.meta["val"].shape[0]) for node in module.graph.find_nodes(op="placeholder")}

    ranges = lift(module).range_constraints

    assert {str(symbol): known.lower for symbol, known in ranges.items()} == {size: 1}


def test_a_bound_of_the_capture_stays() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    shapes = ({0: torch.export.Dim("batch", min=3, max=8)},)
    module = unlift(torch.export.export(Doubled(), (torch.ones(4, 2),), dynamic_shapes=shapes))

    (known,) = lift(module).range_constraints.values()

    assert (known.lower, known.upper) == (3, 8)


def test_fixed_sizes_have_no_range() -> None:
    module = captured(Net().double(), IDS, SCALE, dynamic=False)

    assert lift(module).range_constraints == {}


def test_sample_inputs_are_zeros_of_the_examples_shapes(module: fx.GraphModule) -> None:
    args, kwargs = lift(module).example_inputs

    assert kwargs == {}
    assert [(arg.shape, arg.dtype, int(arg.count_nonzero())) for arg in args] == [
        ((2, 4), torch.int64, 0),
        ((2, 4), torch.float64, 0),
    ]


def test_names_that_are_no_identifiers_become_such() -> None:
    graph = fx.Graph()
    x = graph.create_node("placeholder", "x", name="x")
    x.name = "past.0.key"
    x.meta["val"] = torch.ones(2)
    double = graph.call_function(torch.ops.aten.mul.Tensor, (x, 2))
    double.meta["val"] = torch.ones(2)
    graph.output((double,))

    program = lift(fx.GraphModule(nn.Module(), graph))

    assert program.graph_signature.user_inputs == ("past_0_key",)


def test_what_is_no_tensor_is_not_among_the_results() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int, int, None]:
            return x.exp(), x.shape[0], 3, None

    module = captured(Mixed(), torch.ones(2, 3))

    results = lift(module).module()(torch.zeros(5, 3))

    (result,) = results
    assert result.eq(1).all()


def test_sizes_that_depend_on_values_come_back_from_a_file(graph_of: Callable, tmp_path: Path) -> None:
    module = graph_of(lambda x: x[x > 0].sum(0, keepdim=True) + x, torch.randn(3, 4), dynamic=True)

    torch.export.save(lift(module), tmp_path / "m.pt2")

    x = torch.randn(5, 4)
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x)[0], x[x > 0].sum(0, keepdim=True) + x)
