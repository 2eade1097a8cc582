"""The facts about every node, in their order: where relevance flows, what is frozen, fused, gated, known to be ≥ 0."""

from typing import Any

import pytest
import torch
from support.assigned import captured
from torch import Tensor, fx, nn

from lrp_compiler import Composite, Entry
from lrp_compiler.passes.assign.analyse import ANALYSES, FOR_SPEED, analyse
from lrp_compiler.passes.assign.borders import mark_borders
from lrp_compiler.passes.assign.find_gates import find_gates
from lrp_compiler.passes.assign.passed_over import mark_passed_over
from lrp_compiler.passes.assign.signs import mark_nonnegative
from lrp_compiler.passes.graph import Assignment, assignment, simplify
from lrp_compiler.rules import BORDERS, FUNCTION, GATE, MODULE, NONNEGATIVE, ONLY_POSITIVE

PLAIN = Composite("mine")
PRIMITIVE = Composite("mine", primitives=True)
X = torch.randn(2, 3, 6, 6)


class Net(nn.Module):
    """A border, a ReLU, a written-out SiLU, a written-out RMS norm, a gate, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(nn.functional.pad(x, (1, 1, 1, 1))).relu()
        h = (h * torch.sigmoid(h)).mean((2, 3))
        h = h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-6)
        h = h * (h @ torch.ones(4, 4)).sigmoid()
        return self.head(h)


def analysed(composite: Composite = PLAIN, **options: Any) -> dict[str, Assignment]:
    module = simplify(captured(Net(), X, dynamic=False)).graph_module
    analyse(module, ["x"], composite, **options)
    return found(module)


def found(module: fx.GraphModule) -> dict[str, Assignment]:
    return {node.name: given for node in module.graph.nodes if (given := assignment(node)) is not None}


def test_every_analysis_has_its_turn() -> None:
    assert (mark_nonnegative, find_gates, mark_borders, mark_passed_over) == ANALYSES


def test_every_fact_is_found() -> None:
    given = analysed()

    assert given["relu"].active == ("self",)
    assert given["conv2d"].facts[BORDERS] == {"input": (1, 1, 1, 1)}
    assert given["mul"].target == FUNCTION  # the SiLU, a function of the ReLU's result
    assert given["mul"].operand("self").name == "relu"
    assert given["mul_1"].active == ("self",)  # its other factor, the statistic, is frozen
    assert given["mul_2"].facts[GATE] == "other"
    assert given["linear"].facts[NONNEGATIVE] == ("input",)  # of a ReLU's result, through all of that
    assert given["conv2d"].facts[NONNEGATIVE] == ()


def test_by_primitives_nothing_is_frozen_and_nothing_fused() -> None:
    given = analysed(PRIMITIVE)

    assert FUNCTION not in {each.target for each in given.values()}
    assert given["mul"].active == ("self", "other")
    assert given["mul_1"].active == ("self", "other")
    assert given["conv2d"].facts[BORDERS] == {"input": (1, 1, 1, 1)}


def test_what_makes_rules_only_faster_is_forgotten_without_optimising() -> None:
    fast, plain = analysed(), analysed(optimise=False)

    assert [each.facts[NONNEGATIVE] for each in plain.values()] == [()] * len(plain)
    assert any(each.facts[NONNEGATIVE] for each in fast.values())
    assert FOR_SPEED == (NONNEGATIVE, ONLY_POSITIVE)
    for name, each in fast.items():
        assert (plain[name].active, plain[name].target) == (each.active, each.target)
        assert (plain[name].facts[GATE], plain[name].facts[BORDERS]) == (each.facts[GATE], each.facts[BORDERS])


def test_a_value_that_is_fixed_carries_nothing() -> None:
    """The gate is a constant then, and what it multiplies takes everything."""
    given = analysed(Composite("mine", (Entry("activation", "fixed", when=lambda node: node.name == "sigmoid_1"),)))

    assert "sigmoid_1" not in given
    assert given["mul_2"].active == ("self",)
    assert given["mul_2"].facts[GATE] is None


def test_a_module_that_a_function_explains_is_one_step() -> None:
    composite = Composite("mine", (Entry("*", lambda op, relevance: relevance, path="head"),))

    given = analysed(composite)

    assert given["linear"].target == MODULE
    assert [given["linear"].operand(name).name for name in given["linear"].active] == ["mul_2"]


def test_a_parameter_takes_part_where_its_relevance_is_asked_for() -> None:
    given, asked = analysed(), analysed(wrt=["head.weight", "x"])

    assert given["linear"].wanted == ()
    assert asked["linear"].wanted == ("weight",)
    assert {name: each.active for name, each in asked.items()} == {name: each.active for name, each in given.items()}


def test_an_input_that_is_not_explained_is_a_constant() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y.exp()

    module = simplify(captured(Scaled(), torch.ones(2, 3), torch.ones(2, 3), dynamic=False)).graph_module

    analyse(module, ["x"], PLAIN)

    assert {name: each.active for name, each in found(module).items()} == {"mul": ("self",)}


@pytest.mark.parametrize("composite", [PLAIN, PRIMITIVE])
def test_a_second_time_it_finds_the_same(composite: Composite) -> None:
    module = simplify(captured(Net(), X, dynamic=False)).graph_module
    analyse(module, ["x"], composite)
    before = {name: (each.target, each.active, each.facts) for name, each in found(module).items()}

    analyse(module, ["x"], composite)

    assert {name: (each.target, each.active, each.facts) for name, each in found(module).items()} == before
