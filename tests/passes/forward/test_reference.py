"""The forward graph at a reference as well: every value's twin is what the model makes of the reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.forward import EXPLAINED, Captured, Example, beside_reference
from lrp_compiler.passes.graph import copied, twins_of


class Net(nn.Module):
    """What is made of y and of weights alone is the same at a reference of x."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = self.a(x).relu().chunk(2, 1)
        shared = y.exp() + self.b.bias.sin()
        return self.b(torch.cat([second, first], 1)) * shared


NET = Net().double().eval()
X, AT, Y = (
    torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, shape in enumerate([(5, 3), (5, 3), (5, 2)])
)
NAMES = {"x": "image", "y": "y"}


@pytest.fixture(scope="module")
def exported(graph_of: Callable) -> fx.GraphModule:
    return graph_of(NET, X[:2], Y[:2], dynamic=True)


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return torch.export.export(NET, (X, Y))


Make = Callable[..., tuple[fx.GraphModule, Captured]]


@pytest.fixture
def make(exported: fx.GraphModule, program: torch.export.ExportedProgram) -> Make:
    """The graph with references of inputs, and what was captured, whose inputs have public names."""

    def made(inputs: list[str], names: dict[str, str] = NAMES) -> tuple[fx.GraphModule, Captured]:
        module, example = copied(exported), Example(NET, (X, Y), {}, [X, Y], [NET(X, Y)])
        captured = Captured(program, names, {}, ["output"], ["x", "y"], example=example)
        return module, beside_reference(module, captured, inputs)

    return made


def values(module: fx.GraphModule, *inputs: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}

    class Recording(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n.name] = super().run_node(n)
            return found[n.name]

    Recording(module).run(*inputs)
    return found


def test_every_value_has_what_the_model_makes_of_the_reference_beside_it(make: Make, exported: fx.GraphModule) -> None:
    module, captured = make(["x"])

    assert list(captured.inputs.values()) == ["image", "y", "reference.image"]
    here, there = values(exported, X, Y), values(exported, AT, Y)
    both = values(module, X, Y, AT)
    twins = {node.name: twin.name for node, twin in twins_of(module).items()}
    differing = {
        name for name, value in here.items() if isinstance(value, Tensor) and not torch.equal(value, there[name])
    }
    assert differing
    assert {name for name in twins if isinstance(here[name], Tensor)} == differing
    for name in differing:
        assert torch.equal(both[name], here[name])
        assert torch.equal(both[twins[name]], there[name])
    torch.testing.assert_close(module(X, Y, AT)[0], NET(X, Y))


def test_what_depends_on_no_reference_is_calculated_once(make: Make, targets: Callable) -> None:
    module, _ = make(["x"])

    counts = {name: targets(module).count(name) for name in ("linear", "relu", "exp", "sin")}
    assert counts == {"linear": 4, "relu": 2, "exp": 1, "sin": 1}


def test_twins_are_values_of_their_own(make: Make) -> None:
    """Tracing tells values apart by what they are."""
    module, _ = make(["x", "y"])

    for node, twin in twins_of(module).items():
        if isinstance(node.meta["val"], Tensor):
            assert node.meta["val"] is not twin.meta["val"]
            assert node.meta["val"].shape == twin.meta["val"].shape
            assert node.meta["val"].dtype == twin.meta["val"].dtype


def test_the_example_is_its_own_reference(make: Make) -> None:
    _, captured = make(["y"])

    assert captured.example is not None
    assert [tensor is known for tensor, known in zip(captured.example.tensors, [X, Y, Y], strict=True)] == [True] * 3


def test_the_value_at_the_reference_is_not_the_one_that_is_explained(
    exported: fx.GraphModule, program: torch.export.ExportedProgram
) -> None:
    module = copied(exported)
    module.graph.output_node().args[0][0].meta[EXPLAINED] = True

    beside_reference(module, Captured(program, NAMES, {}, ["output"], ["x", "y"]), ["x"])

    assert len([node for node in module.graph.nodes if node.meta.get(EXPLAINED)]) == 1


def test_an_input_that_is_called_as_a_reference_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match=r"an input 'reference.x' itself.*rename it"):
        make(["x"], {"x": "x", "y": "reference.x"})
