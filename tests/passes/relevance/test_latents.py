"""Masks and seeds at values of the network: against gradients that a hook changes, and what is asked for by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.assigned import Assigned, assigned, captured
from torch import Tensor, fx, nn

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.relevance import Latent, Mask, Put, gates_of, latents_of, propagate_relevance, put_on
from lrp_compiler.rules import unit


class Net(nn.Module):
    """A layer, and a way past it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.hidden = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act, self.classes = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor, change: Any = lambda value, name: value) -> Tensor:
        x = change(self.first(x), "first")
        past = change(x * 1.0, "past")
        return self.classes(change(self.act(self.hidden(x)), "act") + past)


NET = Net().double().eval()
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FACTORS = torch.rand(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ROWS = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
CLASS = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(5, 3)


@pytest.fixture(scope="module")
def net() -> Assigned:
    """By AttnLRP, which in a net of dense layers and ReLUs is gradient × input, but for an ε of 1e-6 or less."""
    return assigned(captured(NET, torch.zeros(2, 4, dtype=torch.float64)))


def asked(done: Assigned, masks: Any = (), seeds: Any = ()) -> dict[str, Latent]:
    return {latent.name: latent for latent in latents_of(done.forward, masks, seeds, done.reached)}


def walked(done: Assigned, latents: dict[str, Latent], given: dict[str, Tensor], start: bool = True) -> Tensor:
    """Relevance of x."""
    values, nodes = done.values(X), {node.name: node for node in done.forward.graph.nodes}
    seeds = [(done.explained, unit(CLASS))] if start else []
    arrived = propagate_relevance(
        done.forward,
        [*seeds, *put_on(latents.values(), given, nodes, lambda node: values[node].shape)],
        values.__getitem__,
        gates=gates_of(latents.values(), given, nodes),
    )
    (relevance,) = arrived.values()
    return relevance.total_of(lambda: X)


def by_gradient(factors: dict[str, Tensor]) -> Tensor:
    """Gradient × input, where gradients of values are multiplied by these on the way."""

    def change(value: Tensor, name: str) -> Tensor:
        if name in factors:
            value.register_hook(lambda gradient: gradient * factors[name])
        return value

    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(NET(leaf, change)[:, 1].sum(), leaf)
    return gradient * X


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


# ---- What they do ----


@pytest.mark.parametrize("dims", ["channels", "all", 1, -1])
def test_a_mask_multiplies_what_leaves_a_value(dims: Any, net: Assigned) -> None:
    latents = asked(net, [Mask("act", dims)])

    assert list(latents) == ["mask.act"]
    close(walked(net, latents, {"mask.act": FACTORS}), by_gradient({"act": FACTORS}))


def test_masks_of_two_layers_are_both_passed(net: Assigned) -> None:
    latents = asked(net, [Mask("act"), Mask("first")])
    given = {"mask.act": FACTORS, "mask.first": FACTORS.flip(0)}

    close(walked(net, latents, given), by_gradient({"act": FACTORS, "first": FACTORS.flip(0)}))


def test_what_goes_past_a_masked_layer_can_be_thinned(net: Assigned) -> None:
    latents = asked(net, [Mask("act", exclude_parallel=True)])

    assert list(latents) == ["mask.act", "past.act"]
    found = walked(net, latents, {"mask.act": FACTORS, "past.act": ROWS})
    close(found, by_gradient({"act": FACTORS, "past": ROWS[:, None]}))


@pytest.mark.parametrize("rows", [5, 1])
@pytest.mark.parametrize("start", [True, False])
def test_relevance_is_put_on_a_value(start: bool, rows: int, net: Assigned) -> None:
    """In unit form: what is put on `first` is that much of its every element, from there by the gradient."""
    latents = asked(net, seeds=[Put("first", "unit")])

    found = walked(net, latents, {"seed.first": FACTORS[:rows]}, start)

    more = (FACTORS[:rows].expand(5, 4) @ NET.first.weight).detach() * X
    close(found, more + (by_gradient({}) if start else 0))


def test_one_row_for_all_is_put_on_each(net: Assigned) -> None:
    """What a file holds where no seed is given; the flow that starts there has the value's shape."""
    latents = asked(net, seeds=[Put("first")])
    nodes = {node.name: node for node in net.forward.graph.nodes}

    ((node, put),) = put_on(latents.values(), {"seed.first": FACTORS[:1]}, nodes, lambda node: (5, 4))

    assert node.name == latents["seed.first"].node
    assert torch.equal(put.tensor, FACTORS[:1].expand(5, 4))
    assert put.tensor.shape == (5, 4)


def test_a_total_is_put_as_it_is(net: Assigned) -> None:
    """On a linear map of relevance R = f ⊙ z, so that x takes f by the gradient."""
    latents = asked(net, seeds=[Put("first")])

    found = walked(net, latents, {"seed.first": FACTORS * NET.first(X).detach()}, start=False)

    # A total is divided by z, stabilised: 1e-6 against values whose smallest is 1e-2.
    torch.testing.assert_close(found, (FACTORS @ NET.first.weight).detach() * X, rtol=2e-4, atol=1e-5)


# ---- What is asked for ----


def test_patterns_name_modules_and_nodes(net: Assigned) -> None:
    found = asked(net, [Mask("*"), Mask("add*", "all")], [Put("act", "unit")])

    assert {name: (latent.kind, latent.dim, latent.form) for name, latent in found.items()} == {
        "mask.first": ("mask", 1, "total"),
        "mask.hidden": ("mask", 1, "total"),
        "mask.act": ("mask", 1, "total"),
        "mask.classes": ("mask", 1, "total"),
        "mask.add": ("mask", None, "total"),
        "seed.act": ("seed", None, "unit"),
    }
    assert {name: latent.default for name, latent in found.items()} == {
        name: 0.0 if name.startswith("seed.") else 1.0 for name in found
    }
    assert Latent(**found["seed.act"].to_dict()) == found["seed.act"]


@pytest.mark.parametrize(
    ("masks", "seeds", "words"),
    [
        ([Mask("act"), Mask("act", "all")], [], "masks= names 'act' twice, in different ways"),
        ([], [Put("act"), Put("act", "unit")], "seeds= names 'act' twice, in different ways"),
        ([Mask("acts")], [], "masks='acts' names no module and no node"),
        ([Mask("act", 2)], [], r"does not fit 'act' of shape .*: choose a dimension behind the batch"),
        ([Mask("act", 0)], [], "choose a dimension behind the batch"),
        ([Mask("act", -2)], [], "choose a dimension behind the batch"),
    ],
)
def test_what_does_not_fit_is_refused(masks: Any, seeds: Any, words: str, net: Assigned) -> None:
    with pytest.raises(InputError, match=words):
        asked(net, masks, seeds)


def test_the_same_twice_is_one(net: Assigned) -> None:
    assert list(asked(net, [Mask("act"), Mask("a*")], [Put("act"), Put("act")])) == ["mask.act", "seed.act"]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (Mask, {"path": 3}, "the path of a module, or a pattern"),
        (Mask, {"path": "a", "dims": "rows"}, "'channels', 'all' or the number"),
        (Mask, {"path": "a", "exclude_parallel": 1}, "True or False"),
        (Put, {"path": None}, "the path of a module, or a pattern"),
        (Put, {"path": "a", "form": "both"}, "'total' or 'unit'"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kind(**options)


# ---- In which shape they are given ----


@pytest.fixture(scope="module")
def image(graph_of: Callable) -> fx.Node:
    """A value `[5, 3, 6, 7]`."""
    (node,) = graph_of(lambda x: x, torch.zeros(5, 3, 6, 7)).graph.find_nodes(op="placeholder")
    return node


@pytest.mark.parametrize("targets", [None, 2])
@pytest.mark.parametrize(
    ("latent", "shape"),
    [
        (Latent("mask", "a", "a", 1), (5, 3)),
        (Latent("mask", "a", "a", 3), (5, 7)),
        (Latent("mask", "a", "a"), (5, 3, 6, 7)),
        (Latent("past", "a", "a"), (5,)),
        (Latent("seed", "a", "a"), (5, 3, 6, 7)),
    ],
)
def test_a_placeholder_has_the_shape_that_is_given(
    latent: Latent, shape: tuple[int, ...], targets: int | None, image: fx.Node
) -> None:
    found = latent.placeholder(image.meta["val"], targets)

    assert tuple(found.shape) == (*(() if targets is None else (targets,)), *shape)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_mask_is_spread_over_the_other_dims(dim: int) -> None:
    value, size = torch.ones(2, 3, 4, 5), (2, 3, 4, 5)[dim]
    given = torch.arange(2.0 * size).reshape(2, size)

    found = Latent("mask", "a", "a", dim).spread(given, 4) * value

    for row in range(2):
        for at in range(size):
            assert found[row].select(dim - 1, at).eq(given[row, at]).all()
