"""The decision at every node; what cannot be decided is said in one sentence, or all of it at once."""

from typing import Any

import pytest
import torch
from support.assigned import captured
from torch import Tensor, fx, nn

from lrp_compiler import Composite, Entry
from lrp_compiler.base.errors import CompositeError, UnsupportedOpError
from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.assign.assign_rules import assign_rules, fixed_values, reachable, uncovered
from lrp_compiler.passes.assign.wanted_values import parameters_of
from lrp_compiler.passes.graph import assignment, outputs, simplify

X = torch.ones(2, 6)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dense(x).relu()


class Net(nn.Module):
    """Two blocks, a gate, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x * x.sigmoid())


def marked(model: nn.Module, *args: Tensor, wrt: list[str] | None = None) -> tuple[fx.GraphModule, set[fx.Node]]:
    """The forward graph with its active nodes, and those that its first output reaches."""
    module = simplify(captured(model, *(args or (X,)), dynamic=False)).graph_module
    names = [node.meta["input"] for node in module.graph.find_nodes(op="placeholder")]
    mark_active(module, names, (), parameters_of(module, wrt))
    return module, reachable(module, outputs(module)[0])


def chosen(*entries: Entry, model: nn.Module | None = None) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Node → kind, rule and options."""
    module, reached = marked(model or Net())
    assign_rules(module, Composite("mine", entries), reached)
    return {
        node.name: (given.kind, given.rule, dict(given.options))
        for node in module.graph.nodes
        if (given := assignment(node)) is not None
    }


def rules(*entries: Entry) -> dict[str, str]:
    return {name: rule for name, (_, rule, _) in chosen(*entries).items()}


OWN = {
    "linear": "epsilon",
    "relu": "identity",
    "add": "epsilon",
    "linear_1": "epsilon",
    "relu_1": "identity",
    "add_1": "epsilon",
    "sigmoid": "identity",
    "mul": "uniform",
    "linear_2": "epsilon",
}
"""What the operators bring along."""


def test_where_the_composite_says_nothing_an_operator_has_its_own_rule() -> None:
    assert rules() == OWN
    assert chosen()["linear"] == ("linear", "epsilon", {})
    assert chosen()["mul"][0] == "product"


def test_an_entry_decides_rule_and_options() -> None:
    found = chosen(Entry("linear", "gamma", {"gamma": 0.5}))

    assert {name: rule for name, (_, rule, _) in found.items()} == OWN | dict.fromkeys(
        ("linear", "linear_1", "linear_2"), "gamma"
    )
    assert found["linear_1"] == ("linear", "gamma", {"gamma": 0.5})


def test_options_are_the_nodes_own() -> None:
    options = {"gamma": 0.5}
    module, reached = marked(Net())
    assign_rules(module, Composite("mine", (Entry("linear", "gamma", options),)), reached)

    options["gamma"] = 0.7

    (first, *_) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert assignment(first).options == {"gamma": 0.5}


@pytest.mark.parametrize(
    ("conditions", "nodes"),
    [
        ({"path": "blocks.*"}, ["linear", "linear_1"]),
        ({"path": "blocks.1"}, ["linear_1"]),
        ({"module": "Block"}, ["linear", "linear_1"]),
        ({"module": "Block", "position": "last"}, ["linear_1"]),
        ({"position": "first"}, ["linear"]),
        ({"position": "last"}, ["linear_2"]),
        ({"when": lambda node: node.meta["val"].shape[-1] == 3}, ["linear_2"]),
        ({"path": "blocks", "when": lambda node: "1" in node.name}, ["linear_1"]),
    ],
    ids=["path", "inner path", "class", "last of a class", "first", "last", "predicate", "two conditions"],
)
def test_all_conditions_of_an_entry_must_hold(conditions: dict[str, Any], nodes: list[str]) -> None:
    found = rules(Entry("linear", "zero", **conditions))

    assert [name for name, rule in found.items() if rule == "zero"] == nodes


def test_any_kind_is_every_kind_that_the_rule_fits() -> None:
    found = rules(Entry("*", "zero"))

    # An activation may be stopped as well as a map; a product has no such rule.
    assert found == dict.fromkeys(OWN, "zero") | {"mul": "uniform"}


def test_the_first_entry_that_matches_decides_and_only_it() -> None:
    found = chosen(
        Entry("linear", "flat", {"epsilon": 0.1}, position="first"),
        Entry(("linear", "addition"), "z-plus", {"epsilon": 0.2}),
        Entry("linear", "gamma", optional=True),
    )

    assert found["linear"] == ("linear", "flat", {"epsilon": 0.1})
    assert found["linear_1"] == ("linear", "z-plus", {"epsilon": 0.2})
    assert found["add"] == ("addition", "z-plus", {"epsilon": 0.2})


# ---- What does not fit ----


def test_a_rule_of_another_family_is_refused_with_those_that_fit() -> None:
    with pytest.raises(CompositeError, match=r"^Composite 'mine' gives 'product' the rule 'gamma': it takes one of "):
        rules(Entry("product", "gamma"))


def test_an_option_that_the_rule_does_not_take_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(CompositeError) as error:
        rules(Entry("linear", "gamma", {"gamma": 1.0, "delta": 2.0}))

    assert str(error.value) == (
        "Composite 'mine' gives the rule 'gamma' an option 'delta': it takes gamma, epsilon, bias, form."
    )


def test_so_is_any_option_of_a_rule_without_options() -> None:
    with pytest.raises(
        CompositeError, match=r"^Composite 'mine' gives the rule 'identity' .* 'epsilon': it takes none"
    ):
        rules(Entry("activation", "identity", {"epsilon": 0.1}))


@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        (Entry("convolution", "epsilon"), "its kinds are activation, addition, linear, product"),
        (Entry("linear", "epsilon", path="encoder"), "its module paths are blocks.0, blocks.0.dense, blocks.1, "),
        (Entry("linear", "epsilon", module="Encoder"), "its module types are Block, Linear, Net"),
        (Entry("linear", "epsilon", when=lambda node: False), "loosen its conditions"),
    ],
    ids=["kind", "path", "class", "predicate"],
)
def test_an_entry_that_matches_nothing_is_refused_with_a_hint(entry: Entry, hint: str) -> None:
    with pytest.raises(CompositeError) as error:
        rules(entry)

    message = str(error.value)
    assert message.startswith("Composite 'mine': nothing in this model matches ")
    assert hint in message
    assert message.endswith(", or give it optional=True.")


def test_it_is_fine_where_it_is_optional() -> None:
    assert rules(Entry("convolution", "epsilon", optional=True)) == OWN


# ---- What no rule speaks for ----


class Unsupported(nn.Module):
    """Two ops that no rule speaks for, in a module of their own, and one behind the explained output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Bessel()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.inner(x) + torch.special.i1(x)
        return y.exp(), torch.special.bessel_j1(x)


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_all_of_them_are_reported_at_once_with_their_place() -> None:
    module, reached = marked(Unsupported())

    with pytest.raises(UnsupportedOpError) as error:
        assign_rules(module, Composite("mine"), reached)

    first, second = error.value.nodes
    assert first[:3] == ("aten.special_bessel_j0.default", "special_bessel_j0", "inner")
    assert second[:3] == ("aten.special_i1.default", "special_i1", "")
    assert "torch.special.bessel_j0(x)" in first.source
    assert str(error.value).startswith("2 nodes have no relevance rule:")


def test_what_relevance_does_not_reach_needs_no_rule() -> None:
    module, reached = marked(Unsupported())

    names = [node.node for node in uncovered(module, reached)]
    behind = uncovered(module, set(module.graph.nodes) - reached)

    assert names == ["special_bessel_j0", "special_i1"]
    assert [node.node for node in behind] == ["special_bessel_j1"]


def test_a_result_that_is_picked_is_reported_with_its_op() -> None:
    class Picked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, r = torch.linalg.qr(x)
            return q @ r

    module, reached = marked(Picked())

    assert [node.node for node in uncovered(module, reached)] == ["linalg_qr"]


# ---- What is fixed, what is reached ----


def test_fixed_values_are_those_that_the_composite_names() -> None:
    module, _ = marked(Net())

    def found(*entries: Entry) -> list[str]:
        return sorted(node.name for node in fixed_values(module, Composite("mine", entries)))

    assert found() == found(Entry("linear", "gamma")) == []
    assert found(Entry("activation", "fixed", path="blocks")) == ["relu", "relu_1"]
    assert found(Entry("*", "fixed", path="blocks.1"), Entry("product", "fixed")) == [
        "add_1",
        "linear_1",
        "mul",
        "relu_1",
    ]
    with pytest.raises(CompositeError, match="nothing in this model matches"):
        found(Entry("softmax", "fixed"))


def test_an_entry_that_fixes_gives_no_rule() -> None:
    assert rules(Entry("activation", "fixed")) == OWN


def test_what_is_reached_lies_in_front_of_what_is_explained() -> None:
    module, reached = marked(Unsupported())
    (x,) = module.graph.find_nodes(op="placeholder")

    assert {node.name for node in reached} == {"exp", "add", "special_bessel_j0", "special_i1", "x"}
    assert reachable(module, x) == {x}


def test_parameters_are_reached_where_their_relevance_is_asked_for() -> None:
    (_, plain), (_, reached) = marked(Net()), marked(Net(), wrt=["head.weight", "blocks.0.dense.bias"])

    more = {node.name for node in reached} - {node.name for node in plain}
    assert more == {"head_weight", "blocks_0_dense_bias"}
