"""`wrt` and `observe`: names found in the forward graph, and the one sentence where they are not."""

import pytest
import torch
from support.assigned import captured
from support.called_twice import ARGS, NET
from torch import Tensor, fx, nn

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.assign.assign_rules import reachable
from lrp_compiler.passes.assign.wanted_values import parameters_of, wanted_values, with_observed
from lrp_compiler.passes.graph import outputs, simplify

PUBLIC = {"ids": "tokens", "scale": "scale"}
"""Placeholder → public name."""


class Marked:
    """The forward graph of a network with its active nodes, and what is reached from its first output."""

    def __init__(self, model: nn.Module, *args: Tensor, wrt: list[str] | None = None) -> None:
        self.module = simplify(captured(model, *args, dynamic=False)).graph_module
        names = [node.meta["input"] for node in self.module.graph.find_nodes(op="placeholder")]
        mark_active(self.module, names, (), parameters_of(self.module, wrt))
        self.reached = reachable(self.module, outputs(self.module)[0])

    def wanted(self, wrt: list[str] | None, inputs: dict[str, str] | None = None) -> dict[str, str]:
        names = {node.meta["input"]: node.meta["input"] for node in self.module.graph.find_nodes(op="placeholder")}
        found = wanted_values(self.module, wrt, names if inputs is None else inputs, self.reached)
        return {name: node.name for name, node in found.items()}

    def observed(self, *patterns: str, wanted: dict[str, fx.Node] | None = None) -> dict[str, str]:
        found = with_observed(wanted or {}, self.module, patterns, self.reached)
        return {name: node.name for name, node in found.items()}


@pytest.fixture
def net() -> Marked:
    return Marked(NET, *ARGS)


# ---- wrt ----


def test_by_default_all_inputs_that_relevance_reaches_are_wanted_by_their_public_names(net: Marked) -> None:
    assert net.wanted(None, PUBLIC) == {"tokens": "ids", "scale": "scale"}


def test_inputs_without_a_public_name_are_not(net: Marked) -> None:
    assert net.wanted(None, {"ids": "tokens"}) == {"tokens": "ids"}


def test_an_input_that_relevance_does_not_reach_is_left_out_unless_it_is_named() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x.masked_fill(mask, 0.0)

    masked = Marked(Masked(), torch.ones(2, 3), torch.ones(2, 3) > 0)

    assert masked.wanted(None) == {"x": "x"}
    with pytest.raises(InputError, match=r"^wrt names 'mask', but the explained output takes no relevance from it\.$"):
        masked.wanted(["x", "mask"])


def test_names_come_in_the_order_in_which_they_are_asked_for() -> None:
    net = Marked(NET, *ARGS, wrt=["place", "out.bias"])

    assert list(net.wanted(["scale", "place", "ids", "out.bias"])) == ["scale", "place", "ids", "out.bias"]
    assert net.wanted(["out.bias"]) == {"out.bias": "out_bias"}


def test_a_module_is_the_value_that_leaves_it_in_each_of_its_calls(net: Marked) -> None:
    found = net.wanted(["block", "embed"])

    assert list(found) == ["block", "block@1", "embed"]
    first, second = (name for name in found.values() if name.startswith("add"))
    assert [node.name for node in net.module.graph.nodes if node.name in (first, second)] == [first, second]
    assert found["embed"] == "embedding"


def test_values_that_leave_a_module_together_are_numbered() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.exp(), x.sin()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.pair(x)
            return a * b

    assert Marked(Outer(), torch.ones(2, 3)).wanted(["pair"]) == {"pair.0": "exp", "pair.1": "sin"}


def test_a_value_that_does_not_leave_its_module_is_none_of_it(net: Marked) -> None:
    """The layer norm's value leaves the norm, not the block."""
    inner, outer = net.wanted(["block.norm"]), net.wanted(["block"])

    assert list(inner) == ["block.norm", "block.norm@1"]
    assert not set(inner.values()) & set(outer.values())


@pytest.mark.parametrize("name", ["nothing", "block.dens", "block.*", "add", "block@1"])
def test_a_name_that_is_nothing_is_refused(name: str, net: Marked) -> None:
    with pytest.raises(InputError) as error:
        net.wanted([name], PUBLIC)

    message = str(error.value)
    assert message.startswith(f"wrt names {name!r}, which is no input (tokens, scale), no parameter")
    assert "\n" not in message


def test_parameters_are_the_weights_that_are_named(net: Marked) -> None:
    assert parameters_of(net.module, None) == []
    assert parameters_of(net.module, ["nothing", "block"]) == []
    assert [node.name for node in parameters_of(net.module, ["out.bias", "embed.weight"])] == [
        "embed_weight",
        "out_bias",
    ]


# ---- observe ----


def test_what_is_observed_follows_what_is_wanted(net: Marked) -> None:
    (x,) = net.module.graph.find_nodes(op="placeholder")[:1]

    assert list(net.observed("block", wanted={"tokens": x})) == ["tokens", "block", "block@1"]


def test_a_star_stays_between_two_dots_and_two_do_not(net: Marked) -> None:
    assert list(net.observed("block.*")) == ["block.norm", "block.dense", "block.norm@1", "block.dense@1"]
    assert set(net.observed("**")) >= {"embed", "block", "block.norm", "block.norm@1", "out"}
    assert set(net.observed("*")) == {"embed", "block", "block@1", "out"}


def test_a_single_call_may_be_meant(net: Marked) -> None:
    assert list(net.observed("block@1")) == ["block@1"]
    assert list(net.observed("block.norm@1", "block")) == ["block.norm@1", "block", "block@1"]


def test_a_name_that_is_no_module_may_be_one_of_nodes(net: Marked) -> None:
    assert net.observed("layer_norm*") == {"layer_norm": "layer_norm", "layer_norm_1": "layer_norm_1"}
    assert net.observed("mean") == {"mean": "mean"}


def test_modules_go_before_nodes() -> None:
    """A module that is called as a node is."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.exp = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.exp(x.exp())

    assert Marked(Named(), torch.ones(2, 3)).observed("exp") == {"exp": "linear"}


def test_a_value_may_be_observed_under_two_names(net: Marked) -> None:
    found = net.observed("block.dense", "linear")

    assert found["block.dense"] == found["linear"]


def test_what_relevance_does_not_reach_is_left_out_of_a_pattern() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.used(x) * 2, self.unused(x) * 2

    half = Marked(Half(), torch.ones(2, 3))

    assert list(half.observed("*used")) == ["used"]
    with pytest.raises(
        InputError, match=r"^observe='unused' names values from which the explained output takes no relevance\.$"
    ):
        half.observed("unused")


def test_a_pattern_that_names_nothing_says_what_is_near(net: Marked) -> None:
    with pytest.raises(InputError, match=r"^observe='blok\.norm' names no module and no node .* near it: block\.norm"):
        net.observed("blok.norm")


def test_a_name_that_is_taken_is_refused(net: Marked) -> None:
    (x,) = net.module.graph.find_nodes(op="placeholder")[:1]

    with pytest.raises(InputError, match=r"^observe='block' names 'block', which wrt names, too, or which is an input"):
        net.observed("block", wanted={"block": x})


def test_what_wrt_names_may_be_observed_as_well(net: Marked) -> None:
    block = next(node for node in net.module.graph.nodes if node.name == net.wanted(["block"])["block"])

    assert list(net.observed("block", wanted={"block": block})) == ["block", "block@1"]
