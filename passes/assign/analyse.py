"""The facts about every node, in order: a new analysis is a file of its own and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import fx

from lrp_compiler.passes.graph import Declined, assignment, everywhere
from lrp_compiler.rules import NONNEGATIVE, ONLY_POSITIVE, Fact
from lrp_compiler.rules.composite import Composite

from .activity import mark_active
from .assign_rules import fixed_values
from .borders import mark_borders
from .collapse_modules import collapse_modules
from .find_gates import find_gates
from .freeze_statistics import statistics
from .fuse_decided import fuse_decided
from .fuse_functions import fuse_functions
from .layers import mark_layers
from .only_positive import mark_only_positive
from .passed_over import mark_passed_over
from .quantisers import mark_quantisers, steps
from .signs import mark_nonnegative
from .straight_through import mark_straight_through
from .wanted_values import parameters_of

REGIONS: tuple[Callable[[fx.GraphModule], list[Declined]], ...] = (
    mark_straight_through,
    mark_quantisers,
    mark_layers,
    fuse_functions,
)
"""Each makes one operation of several, and says what it let be, and why."""
OF_DIFFERENCES: tuple[Callable[[fx.GraphModule], list[Declined]], ...] = (fuse_decided,)
"""The same where relevance is of differences from a reference; with primitives nothing is made one."""
ANALYSES: tuple[Callable[[fx.GraphModule], None], ...] = (
    mark_nonnegative,
    find_gates,
    mark_borders,
    mark_passed_over,
)
"""Each writes down one fact of every node that relevance passes, also in loops, and may read those before it."""
OF_RULES: tuple[Callable[[fx.GraphModule, Collection[fx.Node]], None], ...] = (mark_only_positive,)
"""The same of what follows from the rules, too, and from where relevance is put."""
FOR_SPEED: tuple[Fact[Any], ...] = (NONNEGATIVE, ONLY_POSITIVE)
"""Facts that make rules fast, not right: with `optimise=False` they are forgotten."""


def analyse(
    forward: fx.GraphModule,
    inputs: Sequence[str],
    composite: Composite,
    wrt: Sequence[str] | None = None,
    optimise: bool = True,
    numbers: Sequence[str] = (),
) -> list[Declined]:
    """Annotate the forward graph: where relevance flows, what is frozen, which regions are one function, facts.

    Args:
        forward: the forward graph.
        inputs: names of the placeholders that may carry relevance.
        composite: says which modules are explained as a whole, and whether primitives stay by themselves.
        wrt: the values whose relevance is asked for; parameters among them take part.
        optimise: whether rules are told what only makes them faster.
        numbers: names of the placeholders of whole numbers or flags that are calculated with.

    Returns:
        Operations that were almost taken for one, and why they stay apart.
    """
    plain = composite.primitives or composite.differences
    graphs = list(everywhere(forward))
    frozen = set() if plain else {pair for graph in graphs for pair in statistics(graph)}
    mark_active(forward, inputs, frozen, numbers=numbers)
    fixed = fixed_values(forward, composite)
    fixed.update(node for graph in graphs if not plain for node in steps(graph))
    mark_active(forward, inputs, frozen, parameters_of(forward, wrt), fixed, numbers)
    collapse_modules(forward, composite)
    declined: list[Declined] = []
    for make_one in OF_DIFFERENCES if composite.differences else () if plain else REGIONS:
        for graph in graphs:
            where = "" if graph is forward else " in a loop"
            declined += [(f"{name}{where}", reason) for name, reason in make_one(graph)]
    for find_out in ANALYSES:
        find_out(forward)
    if not optimise:
        _forget(forward)
    return declined


def analyse_rules(forward: fx.GraphModule, seeded: Collection[fx.Node], optimise: bool = True) -> None:
    """Annotate the forward graph with what follows from the rules, too.

    Args:
        forward: the forward graph, rules assigned.
        seeded: the nodes that relevance is put on.
        optimise: whether rules are told what only makes them faster.
    """
    for find_out in OF_RULES:
        find_out(forward, seeded)
    if not optimise:
        _forget(forward)


def _forget(forward: fx.GraphModule) -> None:
    for graph in everywhere(forward):
        for node in graph.graph.nodes:
            if (given := assignment(node)) is not None:
                for fact in FOR_SPEED:
                    given.know(fact, fact.default)
