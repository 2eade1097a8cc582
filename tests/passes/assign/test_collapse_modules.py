"""Modules that a function of the user's own explains: one step, with what enters as its operands."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.assigned import assigned, captured
from torch import Tensor, fx, nn

from lrp_compiler import Composite, Entry
from lrp_compiler.base.errors import CompositeError
from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.assign.collapse_modules import collapse_modules
from lrp_compiler.passes.graph import assignment, simplify
from lrp_compiler.passes.relevance import Listeners, propagate_relevance
from lrp_compiler.rules import EXPLAINED_BY, MODULE, Op, Relevance, total, unit

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Mix(nn.Module):
    """Several values in, one out; the mask carries no relevance."""

    def forward(self, a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, (a * b).tanh(), b) - a


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp() + 1


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x).sin())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.stack = nn.Linear(4, 4), Mix(), Stack()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.stack(self.mix(h.sin(), h, x > 0))


def share(op: Op, relevance: Relevance) -> Any:
    """All of it to the first operand."""
    return {name: total(op.total(relevance)) if name == "0" else None for name in op.active}


def marked(model: nn.Module, *args: Tensor) -> fx.GraphModule:
    module = simplify(captured(model.double(), *(args or (X,)), dynamic=False)).graph_module
    mark_active(module, [node.meta["input"] for node in module.graph.find_nodes(op="placeholder")])
    return module


def collapsed(module: fx.GraphModule, *entries: Entry) -> dict[str, list[str]]:
    """Node that carries a function → its operands."""
    collapse_modules(module, Composite("mine", entries))
    return {
        node.name: [given.operand(name).name for name in given.active]
        for node in module.graph.nodes
        if (given := assignment(node)) is not None and given.target == MODULE
    }


def test_the_value_that_leaves_has_what_enters_as_operands_in_the_order_in_which_they_are_read() -> None:
    module = marked(Net())

    assert collapsed(module, Entry("*", share, path="mix")) == {"sub": ["sin", "linear"]}

    (sub,) = [node for node in module.graph.nodes if node.name == "sub"]
    given = assignment(sub)
    assert given.active == ("0", "1")
    assert set(given.arguments) == {"0", "1"}
    assert given.facts[EXPLAINED_BY] is share


def test_what_lies_between_stays_as_it_was() -> None:
    module = marked(Net())
    before = {node.name: assignment(node) for node in module.graph.nodes}

    collapsed(module, Entry("*", share, path="mix"))

    assert {node.name for node in module.graph.nodes if assignment(node) is not before[node.name]} == {"sub"}


def test_each_call_of_a_module_is_one_of_its_own() -> None:
    assert collapsed(marked(Net()), Entry("*", share, path="stack.inner")) == {"add": ["sub"], "add_1": ["sin_1"]}


def test_of_modules_inside_one_another_the_outermost_that_matches_is_meant() -> None:
    assert collapsed(marked(Net()), Entry("*", share, path="stack")) == {"add_1": ["sub"]}
    assert collapsed(marked(Net()), Entry("*", share, path="s*")) == {"add_1": ["sub"]}


@pytest.mark.parametrize("path", [None, "*", "**"])
def test_a_module_is_named_by_its_class_whatever_lies_around_it(path: str | None) -> None:
    """A pattern that the whole model fits, too, does not make it one module: both conditions must hold."""
    found = collapsed(marked(Net()), Entry("*", share, module="Mix", path=path))

    assert found == {"sub": ["sin", "linear"]}


def test_path_and_class_must_both_hold() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = Inner(), Stack()

        def forward(self, x: Tensor) -> Tensor:
            return self.right(self.left(x.sin()))

    assert collapsed(marked(Two()), Entry("*", share, path="left", module="Inner")) == {"add": ["sin"]}
    inner = {"add_1": ["add"], "add_2": ["sin_1"]}
    assert collapsed(marked(Two()), Entry("*", share, path="right", module="Inner")) == inner
    assert collapsed(marked(Two()), Entry("*", share, module="Inner")) == {"add": ["sin"], **inner}


@pytest.mark.parametrize(("position", "found"), [("first", {"add": ["sub"]}), ("last", {"add_1": ["sin_1"]})])
def test_the_first_or_the_last_of_the_modules_that_match(position: Any, found: dict[str, list[str]]) -> None:
    assert collapsed(marked(Net()), Entry("*", share, module="Inner", position=position)) == found


def test_of_two_functions_for_a_module_the_first_decides_and_of_two_modules_the_outer_one() -> None:
    def other(op: Op, relevance: Relevance) -> Any:
        return relevance

    module = marked(Net())
    entries = Entry("*", share, path="mix"), Entry("*", other, module="Mix")
    assert collapsed(module, *entries) == {"sub": ["sin", "linear"]}
    (sub,) = [node for node in module.graph.nodes if node.name == "sub"]
    assert assignment(sub).facts[EXPLAINED_BY] is share

    within, around = Entry("*", share, module="Inner"), Entry("*", other, path="stack")
    for entries in ((within, around), (around, within)):  # both hand their value to the same node
        assert collapsed(marked(Net()), *entries) == {"add_1": ["sub"]}


def test_entries_with_the_name_of_a_rule_are_not_its_business() -> None:
    module = marked(Net())

    assert collapsed(module, Entry("linear", "gamma", path="nowhere"), Entry("*", "fixed", path="mix")) == {}


def test_a_value_that_a_module_only_hands_on_does_not_enter_twice() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp() * x.sin() + x

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice = Twice()

        def forward(self, x: Tensor) -> Tensor:
            return self.twice(x * 2)

    assert collapsed(marked(Outer()), Entry("*", share, path="twice")) == {"add": ["mul"]}


def test_relevance_jumps_over_the_module() -> None:
    """The function's share is what the operand gets, and what it does not get nobody gets."""
    model = Net()
    done = assigned(captured(model.double(), X), Composite("mine", (Entry("*", share, path="mix"),)))
    values = done.values(X)
    sub, sin, linear = (done.named(name) for name in ("sub", "sin", "linear"))
    g = torch.randn(3, 4, dtype=torch.float64)
    seen: dict[str, Relevance] = {}

    propagate_relevance(
        done.forward,
        {sub: unit(g)},
        values.__getitem__,
        listeners=Listeners(observe=lambda node, relevance: seen.update({node.name: relevance})),
    )

    assert list(seen) == ["sub", "sin", "linear", "x"]
    for node in (sin, linear):  # of the linear map's value only what comes through the sine
        found = seen[node.name].total_of(lambda node=node: values[node])
        torch.testing.assert_close(found, g * values[sub], rtol=1e-12, atol=1e-14)


# ---- What cannot be explained as a whole ----


def two_results(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.exp(), x.sin()


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Around(nn.Module):
    """A module whose results are added up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.part = Function(function)

    def forward(self, x: Tensor) -> Tensor:
        results = self.part(x)
        return sum(results) if isinstance(results, tuple) else results + x


@pytest.mark.parametrize(
    ("function", "count"), [(two_results, 2), (lambda x: (x > 0).to(x.dtype), 0)], ids=["two results", "none"]
)
def test_exactly_one_active_value_must_leave(function: Callable[..., Any], count: int) -> None:
    with pytest.raises(CompositeError) as error:
        collapsed(marked(Around(function)), Entry("*", share, path="part"))

    assert str(error.value) == (
        f"The module part cannot be explained as a whole: {count} values that carry relevance leave it, "
        "and a function speaks of one."
    )


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (Entry("*", share), "so it needs a path or the name of a module's class: give path= or module="),
        (Entry("linear", share, path="mix"), "whatever its operations are: its kind is '*'"),
        (Entry(("linear", "matmul"), share, path="mix"), "whatever its operations are: its kind is '*'"),
        (Entry("*", share, path="mix", when=bool), "and `when` asks about a single node"),
        (Entry("*", share, {"gamma": 0.1}, path="mix"), "and takes no options"),
    ],
    ids=["nowhere", "kind", "kinds", "when", "options"],
)
def test_a_condition_that_makes_no_sense_of_a_module_is_refused(entry: Entry, sentence: str) -> None:
    with pytest.raises(CompositeError) as error:
        collapsed(marked(Net()), entry)

    assert str(error.value).startswith(f"Composite 'mine': a function explains a module as a whole, {sentence}")


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ({"module": "Attention"}, "its module types are Inner, Linear, Mix, Net, Stack"),
        ({"module": "Mix", "path": "stack"}, "its modules of the type 'Mix' are mix"),
        ({"module": "Attention", "path": "stack"}, "its module types are Inner, Linear, Mix, Net, Stack"),
    ],
    ids=["no such class", "not there", "neither"],
)
def test_a_class_that_is_nowhere_is_refused_with_those_there_are(conditions: dict[str, str], sentence: str) -> None:
    with pytest.raises(CompositeError, match=sentence):
        collapsed(marked(Net()), Entry("*", share, **conditions))


def test_a_path_that_is_nowhere_is_refused_with_the_modules_there_are() -> None:
    with pytest.raises(CompositeError, match=r"its modules are first, mix, stack, stack\.inner"):
        collapsed(marked(Net()), Entry("*", share, path="encoder"))

    assert collapsed(marked(Net()), Entry("*", share, path="encoder", optional=True)) == {}
