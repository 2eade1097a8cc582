"""The walk on real tensors: every number by hand, by a gradient, or by what must add up."""

from collections import defaultdict

import pytest
import torch
from support.assigned import Assigned, assigned, captured, emitted
from support.two_layers import ABSORBED, BY_HAND, X, with_weights_by_hand
from torch import Tensor, fx, nn

from lrp_compiler.base.errors import CompositeError
from lrp_compiler.passes.graph import Assignment, assign, assignment
from lrp_compiler.passes.relevance.walk import HALF, Accumulator, Listeners, propagate_relevance, wide
from lrp_compiler.rules import Relevance, total, unit
from lrp_compiler.rules.composites import epsilon

aten = torch.ops.aten
LARGER_LOGIT = torch.tensor([[1.0, 0.0]])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


# ---- By hand ----


@pytest.fixture
def by_hand() -> Assigned:
    """Two dense layers, ε = 1."""
    return assigned(captured(with_weights_by_hand(), torch.zeros(2, 3)), epsilon(epsilon=1.0))


def test_every_relevance_is_that_of_hand_arithmetic(by_hand: Assigned) -> None:
    values = by_hand.values(torch.tensor(X))
    seen: dict[str, Relevance] = {}

    arrived = propagate_relevance(
        by_hand.forward,
        {by_hand.explained: unit(LARGER_LOGIT)},
        values.__getitem__,
        listeners=Listeners(observe=lambda node, relevance: seen.update({node.name: relevance})),
    )

    assert list(seen) == ["linear_1", "relu", "linear", "x"]
    (x,) = by_hand.forward.graph.find_nodes(op="placeholder")
    assert list(arrived) == [x]
    for name, line in (("relu", "mul_tensor"), ("linear", "mul_tensor"), ("x", "mul_3")):
        found = seen[name].total_of(lambda name=name: values[by_hand.named(name)])
        assert found.tolist() == [pytest.approx(BY_HAND[line][0])]


def test_what_leaves_the_flow_is_told_by_node_and_cause(by_hand: Assigned) -> None:
    values, told = by_hand.values(torch.tensor(X)), defaultdict(float)

    def absorb(node: fx.Node, cause: str, share: Tensor) -> None:
        told[node.name, cause] += float(share.sum())

    propagate_relevance(
        by_hand.forward, {by_hand.explained: unit(LARGER_LOGIT)}, values.__getitem__, listeners=Listeners(absorb=absorb)
    )

    assert {key: share for key, share in told.items() if share} == {
        ("linear_1", "stabiliser"): pytest.approx(3 / 4),
        ("linear_1", "bias"): pytest.approx(-3 / 4),
        ("linear", "stabiliser"): pytest.approx(3 / 8 + 9 / 16),
    }
    causes = {cause: sum(share for (_, other), share in told.items() if other == cause) for cause in ABSORBED}
    assert causes == pytest.approx(ABSORBED)


def test_every_value_that_a_rule_asks_for_is_told_with_who_asked(by_hand: Assigned) -> None:
    values = by_hand.values(torch.tensor(X))
    asked: set[tuple[str, str]] = set()

    propagate_relevance(
        by_hand.forward,
        {by_hand.explained: unit(LARGER_LOGIT)},
        values.__getitem__,
        listeners=Listeners(asked=lambda origin, value: asked.add((origin.name, value.name))),
    )

    assert {pair for pair in asked if "bias" not in pair[1]} == {
        ("linear_1", "linear_1"),
        ("linear_1", "classes_weight"),
        ("relu", "relu"),
        ("linear", "linear"),
        ("linear", "hidden_weight"),
    }


def test_without_books_nobody_asks_for_the_biases(by_hand: Assigned) -> None:
    values, asked = by_hand.values(torch.tensor(X)), set()

    propagate_relevance(
        by_hand.forward,
        {by_hand.explained: unit(LARGER_LOGIT)},
        values.__getitem__,
        listeners=Listeners(asked=lambda origin, value: asked.add(value.name)),
    )

    assert not [name for name in asked if name.endswith("bias")]


def test_what_a_rule_hands_to_each_operand_is_told(by_hand: Assigned) -> None:
    values, told = by_hand.values(torch.tensor(X)), []

    propagate_relevance(
        by_hand.forward,
        {by_hand.explained: unit(LARGER_LOGIT)},
        values.__getitem__,
        listeners=Listeners(pass_on=lambda node, operand, share: told.append((node.name, operand.name, share.form))),
    )

    assert told == [("linear_1", "relu", "unit"), ("relu", "linear", "unit"), ("linear", "x", "unit")]


def test_relevance_may_start_anywhere_and_at_several_places(by_hand: Assigned) -> None:
    """At the hidden layer's ReLU and its map: what is put on both is added."""
    values = by_hand.values(torch.tensor(X))
    relu, linear = by_hand.named("relu"), by_hand.named("linear")
    put = torch.tensor([[1.0, 2, 3, 4]])

    both, alone, other = (
        propagate_relevance(by_hand.forward, seeds, values.__getitem__)[by_hand.named("x")].tensor
        for seeds in (
            {relu: total(put), linear: total(put)},
            {relu: total(put)},
            {linear: total(put)},
        )
    )

    close(both.double(), (alone + other).double())


# ---- By gradients: the limit ε → 0 ----


class Branches(nn.Module):
    """A value that three read, and one that is read by nothing explained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x).relu()
        return self.c(self.b(h).relu() + h - h.relu() * 0.5), h.exp()


ROWS = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def limit(model: nn.Module, *, wrt: list[str] | None = None) -> Assigned:
    return assigned(captured(model.double(), torch.zeros(2, 4, dtype=torch.float64)), "attnlrp", wrt=wrt)


def one_hot(rows: int = 5) -> Tensor:
    return torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(rows, 3)


def test_relevance_of_several_readers_is_added() -> None:
    model = Branches()
    done = limit(model)
    values = done.values(ROWS)

    arrived = propagate_relevance(done.forward, {done.explained: unit(one_hot())}, values.__getitem__)

    leaf = ROWS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[0][:, 1].sum(), leaf)
    (relevance,) = arrived.values()
    close(relevance.total_of(lambda: ROWS), gradient * ROWS)


def test_parameters_take_part_where_that_is_wanted_without_changing_the_rest() -> None:
    """A weight's relevance is that of its messages: weight × gradient, in the limit."""
    model = Branches()
    done = limit(model, wrt=["x", "b.weight", "a.bias"])
    values = done.values(ROWS)
    seeds = {done.explained: unit(one_hot())}

    plain, asked = (
        {
            node.name: share
            for node, share in propagate_relevance(done.forward, seeds, values.__getitem__, **more).items()
        }
        for more in ({}, {"parameters": True})
    )

    assert (set(plain), set(asked)) == ({"x"}, {"x", "b_weight", "a_bias"})
    assert torch.equal(plain["x"].tensor, asked["x"].tensor)
    logits = model(ROWS)[0][:, 1].sum()
    for name, parameter in (("b_weight", model.b.weight), ("a_bias", model.a.bias)):
        (gradient,) = torch.autograd.grad(logits, parameter, retain_graph=True)
        close(asked[name].total_of(lambda p=parameter: p.detach()), gradient * parameter.detach())


def test_what_arrives_at_a_constant_that_the_graph_makes_is_dropped() -> None:
    """Only inputs and weights have relevance of their own."""
    done = limit(Branches())
    (x,) = done.forward.graph.find_nodes(op="placeholder")
    with done.forward.graph.inserting_after(x):
        made = done.forward.graph.call_function(aten.full.default, ([5, 4], 1.0))

    arrived = propagate_relevance(done.forward, {made: total(ROWS)}, lambda node: ROWS)

    assert arrived == {}


# ---- Forms ----


class Graph:
    """Two nodes, and a record of whose values were asked for."""

    def __init__(self) -> None:
        graph = fx.Graph()
        self.a, self.b = graph.placeholder("a"), graph.placeholder("b")
        self.values = {self.a: torch.tensor([2.0, 3.0]), self.b: torch.tensor([5.0, 7.0])}
        self.asked: list[tuple[str, str]] = []
        self.sum = Accumulator(
            self.values.__getitem__, lambda origin, value: self.asked.append((origin.name, value.name))
        )


def ones(factor: float) -> Tensor:
    return torch.full((2,), factor)


@pytest.mark.parametrize("form", [total, unit])
def test_like_forms_are_added_as_they_are(form: object) -> None:
    made = Graph()
    for factor in (1.0, 2.0, 4.0):
        made.sum.add(made.a, form(ones(factor)))  # type: ignore[operator]

    found = made.sum.take(made.a)

    assert (found.form, found.tensor.tolist()) == ("total" if form is total else "unit", [7.0, 7.0])
    assert made.asked == []


def test_unlike_forms_meet_in_total_form() -> None:
    made = Graph()
    made.sum.add(made.a, unit(ones(1.0)))
    made.sum.add(made.a, total(ones(10.0)))
    made.sum.add(made.a, unit(ones(1.0)))

    found = made.sum.take(made.a)

    assert (found.form, found.tensor.tolist()) == ("total", [14.0, 16.0])
    assert made.asked == [("a", "a")]


def test_a_total_that_comes_along_needs_no_value() -> None:
    made = Graph()
    made.sum.add(made.a, unit(ones(1.0), as_total=lambda: ones(100.0)))
    made.sum.add(made.a, total(ones(10.0)))

    assert made.sum.take(made.a).tensor.tolist() == [110.0, 110.0]
    assert made.asked == []


def test_what_is_taken_is_gone_and_what_is_another_nodes_stays() -> None:
    made = Graph()
    made.sum.add(made.a, total(ones(1.0)))
    made.sum.add(made.b, unit(ones(2.0)))

    made.sum.take(made.a)

    assert (made.a in made.sum, made.b in made.sum) == (False, True)
    assert made.sum.total(made.b, made.sum.take(made.b)).tolist() == [10.0, 14.0]
    assert made.asked == [("b", "b")]


def test_a_unit_form_alone_keeps_what_comes_along() -> None:
    made = Graph()
    given = unit(ones(1.0), as_total=lambda: ones(100.0))
    made.sum.add(made.a, given)

    assert made.sum.take(made.a) is given


# ---- Dtypes ----


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_read_as_float32(dtype: torch.dtype) -> None:
    value = torch.tensor([0.1, 2.0]).to(dtype)

    assert wide(value).dtype == torch.float32
    assert torch.equal(wide(value), value.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_anything_else_is_read_as_it_is(dtype: torch.dtype) -> None:
    value = torch.ones(2).to(dtype)

    assert wide(value) is value


def test_a_share_has_the_precision_of_its_tensor() -> None:
    """A product promotes; relevance comes back in the precision of each operand."""

    class Promoting(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y

    x, y = torch.ones(2, 3), torch.full((2, 3), 2.0, dtype=torch.float64)
    done = assigned(captured(Promoting(), x, y), "attnlrp")

    arrived = propagate_relevance(
        done.forward, {done.explained: total(torch.ones(2, 3, dtype=torch.float64))}, done.values(x, y).__getitem__
    )

    assert {node.name: share.tensor.dtype for node, share in arrived.items()} == {
        "x": torch.float32,
        "y": torch.float64,
    }
    for share in arrived.values():
        assert share.tensor.eq(0.5).all()


def test_relevance_of_an_index_stays_a_float() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids + 1).sum(1)

    ids = torch.tensor([[1, 2], [5, 0]])
    model = Lookup().double()
    done = assigned(captured(model, ids), "attnlrp")

    (arrived,) = propagate_relevance(
        done.forward, {done.explained: unit(one_hot(2))}, done.values(ids).__getitem__
    ).values()

    assert (arrived.form, arrived.tensor.dtype) == ("total", torch.float64)
    close(arrived.tensor, model.table.weight.detach()[ids + 1][..., 1])


# ---- What does not fit ----


def test_a_rule_that_does_not_fit_is_reported_with_its_node_and_module() -> None:
    done = limit(Branches())
    linear = done.named("linear")
    given = assignment(linear)
    assert given is not None
    assign(linear, Assignment(given.target, given.arguments, given.active, rule="taylor"))

    with pytest.raises(CompositeError, match=r"it takes .*, not 'taylor' \(linear in a\)\.$"):
        propagate_relevance(done.forward, {done.explained: unit(one_hot())}, done.values(ROWS).__getitem__)


def test_a_rule_that_forgets_an_operand_is_reported() -> None:
    done = limit(Branches())
    add = next(node for node in done.forward.graph.nodes if node.target is aten.add.Tensor)
    given = assignment(add)
    assert given is not None
    assign(add, Assignment(given.target, given.arguments, ("self", "other"), wanted=("nothing",), rule="epsilon"))

    with pytest.raises(CompositeError, match=rf"gives parameters of .* no relevance \(nothing\) \({add.name} in the"):
        propagate_relevance(
            done.forward, {done.explained: unit(one_hot())}, done.values(ROWS).__getitem__, parameters=True
        )


@pytest.mark.parametrize("by", ["divided", "multiplied"])
@pytest.mark.parametrize("traced", [True, False])
def test_a_factor_may_be_a_size_that_varies(by: str, traced: bool) -> None:
    """A mean written out as a sum over a size, for example."""

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.shape[0] if by == "divided" else x * x.shape[0]

    x = torch.randn(5, 3, dtype=torch.float64)
    module = captured(Scaled(), torch.zeros(2, 3, dtype=torch.float64))
    if traced:
        emission = emitted(module, "attnlrp")
        found = emission.relevance_of(emission.relevance, x)["x"]
    else:
        done = assigned(module, "attnlrp")
        fetch = done.values(x).__getitem__
        (arrived,) = propagate_relevance(done.forward, {done.explained: unit(one_hot())}, fetch).values()
        found = arrived.total_of(lambda: x)

    close(found, one_hot() * x * (1 / 5 if by == "divided" else 5))
