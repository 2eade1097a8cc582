"""What masks of one value must add up to, on random graphs of random rules: relevance is linear in what is masked."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.drawn import drawing
from support.random_graphs import RandomGraph, random_graphs
from torch import Tensor, fx

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.graph import assignment

Drawn = tuple[RandomGraph, Tensor]
COMPOSITES = st.sampled_from(["epsilon", "epsilon-plus", "attnlrp", "attnlrp-gamma", "cp-lrp", "dynamic-lrp"])
NOTHING = "depends on none of the inputs|depends on the inputs only through a hard decision|takes no relevance"


def compiled(drawn: Drawn, **options: Any) -> lrp.Explainer | None:
    model, x = drawn
    try:
        return lrp.compile(model, (x,), target=1, seed="value", **options)
    except InputError as error:
        if not re.search(NOTHING, str(error)):
            raise
        return None


def close(found: Tensor, expected: Tensor, scale: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(scale.abs().max()) + 1e-15, equal_nan=True)


def value_in(explainer: lrp.Explainer, which: int) -> fx.Node | None:
    """One of the values with rows that relevance passes, if there are any."""
    nodes = [node for node in explainer.forward.graph.nodes if assignment(node) is not None]
    nodes = [node for node in nodes if node.meta["val"].dim() > 1 and node.meta["val"].is_floating_point()]
    return nodes[which % len(nodes)] if nodes else None


def add_up(drawn: Drawn, composite: str, which: int, draws: st.DataObject) -> None:
    x = drawn[1]
    plain = compiled(drawn, composite=composite)
    if plain is None:
        return
    node = value_in(plain, which)
    if node is None:
        return
    mask = lrp.Mask(node.name, dims=draws.draw(st.integers(1, node.meta["val"].dim() - 1)), exclude_parallel=True)
    explainer = compiled(
        drawn,
        composite=composite,
        masks=[
            lrp.Mask(node.name, mask.dims),
        ],
        observe=[node.name],
    )
    only = compiled(drawn, composite=composite, masks=[mask])
    if explainer is None or only is None:
        return
    expected = plain(x).relevance["x"]

    # Not given: nothing has changed, bit for bit.
    whole = explainer(x)
    torch.testing.assert_close(whole.relevance["x"], expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(only(x).relevance["x"], expected, rtol=0, atol=0, equal_nan=True)

    # Channel by channel: each heatmap holds what goes past the value as well, unless that is dropped.
    name = node.name
    channels = node.meta["val"].shape[int(mask.dims)]
    each = torch.eye(channels, dtype=x.dtype).unsqueeze(1)
    past = explainer(x, masks={name: torch.zeros(channels)}).relevance["x"]
    close(explainer(x, masks={name: each}).relevance["x"].sum(0) - (channels - 1) * past, expected, expected)
    close(only(x, masks={name: each}).relevance["x"].sum(0), expected - past, expected)
    # What is observed there is what arrives, channel by channel, whatever is masked.
    seen = explainer(x, masks={name: each}).relevance[name]
    close(seen, whole.relevance[name].expand_as(seen), seen)

    # Whatever the weights, the books balance.
    weights = torch.rand(2, channels, dtype=x.dtype, generator=torch.Generator().manual_seed(which))
    for masked in (explainer, only):
        books = masked.audit(x, masks={name: weights})
        if torch.isfinite(torch.tensor(books.error)):
            assert abs(books.error) <= 1e-9 * max(books.magnitude, abs(books.seed), 1e-3)


def shares_add_up(drawn: Drawn, composite: str, which: int) -> None:
    """Channels have what the books say arrives at their value; heatmaps under each of them are the plain one."""
    x = drawn[1]
    plain = compiled(drawn, composite=composite)
    if plain is None:
        return
    node = value_in(plain, which)
    if node is None:
        return
    name = node.name
    explainer = compiled(drawn, composite=composite, masks=lrp.Mask(name, exclude_parallel=True), observe=name)
    if explainer is None:
        return

    sums = concepts.channels(explainer, x, name, normalise=False)
    count = sums.shape[-1]
    heatmaps = concepts.conditional(explainer, x, [{name: channel} for channel in range(count)]).relevance["x"]

    whole = plain(x).relevance["x"]
    if not torch.isfinite(whole).all() or not torch.isfinite(torch.from_numpy(sums)).all():
        return
    (entry,) = [entry for entry in plain.audit(x).entries if entry.node == name]
    assert abs(sums.sum() - entry.relevance_in) <= 1e-9 * max(entry.magnitude, 1e-12)
    by_passing = compiled(drawn, composite=composite, masks=lrp.Mask(name))
    assert by_passing is not None
    past = by_passing(x, masks={name: torch.zeros(count)}).relevance["x"]
    close(heatmaps.sum(0) + past, whole, whole)


@pytest.mark.slow
@drawing(3)
@given(random_graphs(), COMPOSITES, st.integers(0, 50))
def test_channels_and_their_heatmaps_add_up(drawn: Drawn, composite: str, which: int) -> None:
    shares_add_up(drawn, composite, which)


@pytest.mark.heavy
@drawing(60)
@given(random_graphs(most=30), COMPOSITES, st.integers(0, 50))
def test_channels_and_their_heatmaps_add_up_in_many_larger_graphs(drawn: Drawn, composite: str, which: int) -> None:
    shares_add_up(drawn, composite, which)


@pytest.mark.slow
@drawing(3)
@given(random_graphs(), COMPOSITES, st.integers(0, 50), st.data())
def test_masked_parts_add_up_to_the_whole(drawn: Drawn, composite: str, which: int, draws: st.DataObject) -> None:
    add_up(drawn, composite, which, draws)


@pytest.mark.heavy
@drawing(60)
@given(random_graphs(most=30), COMPOSITES, st.integers(0, 50), st.data())
def test_masked_parts_add_up_to_the_whole_in_many_larger_graphs(
    drawn: Drawn, composite: str, which: int, draws: st.DataObject
) -> None:
    add_up(drawn, composite, which, draws)


def seeded(drawn: Drawn, composite: str, which: int) -> None:
    """Relevance that was observed at a value through which everything goes, put there again, gives the same."""
    model, x = drawn
    plain = compiled(drawn, composite=composite)
    if plain is None:
        return
    explained = plain.artefact.explained
    explainer = compiled(drawn, composite=composite, observe=[explained.name], form="both")
    if explainer is None or explained.op != "call_function":
        return
    found = explainer(x)
    again = lrp.compile(model, (x,), composite=composite, target=None, seeds=[lrp.Put(explained.name, "unit")])
    close(
        again(x, seeds={explained.name: found.coefficients[explained.name]}).relevance["x"],
        found.relevance["x"],
        found.relevance["x"],
    )


@drawing(2)
@given(random_graphs(), st.sampled_from(["epsilon", "attnlrp", "epsilon-plus"]), st.integers(0, 50))
def test_what_was_observed_is_put_there_again(drawn: Drawn, composite: str, which: int) -> None:
    seeded(drawn, composite, which)
