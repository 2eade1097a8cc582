"""A map of relevance summed over values of the network, added to an explainer that is compiled already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.specs import AGGREGATE, RelevanceSpec
from lrp_compiler.passes import Options, Watch, joint_graph
from lrp_compiler.passes.assign import named_values, reachable
from lrp_compiler.passes.graph import outputs, simplify, write_notes
from lrp_compiler.passes.joint import aggregate, constants_first, misfit
from lrp_compiler.passes.relevance import Question
from lrp_compiler.rules.composite import Composite
from lrp_compiler.torch_private import sources_forgotten

from .artefact import Artefact
from .reducing import specs_of


@sources_forgotten()
def aggregated(artefact: Artefact, patterns: Sequence[str]) -> Artefact:
    """The same explainer, which also returns relevance summed over these values and the input, as one map of the input.

    Args:
        artefact: the explainer, whose relevance is not reduced; it stays as it is.
        patterns: of values, as those of `observe`; each value counts once.

    Raises:
        InputError: a pattern that names nothing, or only what takes no relevance; values whose places are not those of
            the input; relevance of several inputs, or of none.
    """
    about, forward = artefact.about, artefact.forward
    own = _explained(about)
    reached, by_name = reachable(forward, artefact.explained), {node.name: node for node in forward.graph.nodes}
    found = {node: name for one in patterns for name, node in named_values(forward, one, reached, "aggregate").items()}
    totals, units = (
        {entry.input: by_name[entry.node] for entry in about.relevance if entry.form == form}
        for form in ("total", "unit")
    )
    wanted = totals | {f"{AGGREGATE}.{name}": node for node, name in found.items()}
    options = Options(Composite(about.name), artefact.seed, memory_budget=artefact.plan.budget, optimise=about.optimise)
    with quiet():
        question = Question(artefact.explained, wanted, artefact.latents, units)
        joint, plan = joint_graph(forward, question, options, Watch())
    place, flat = joint.graph.output_node(), outputs(joint)
    first, count = len(about.outputs), len(totals)
    relevance: dict[str, fx.Node] = dict(zip(wanted, flat[first:], strict=False))
    lead = 1 + (about.several is not None)
    values = {name: relevance[f"{AGGREGATE}.{name}"] for name in found.values()}
    _check(own, relevance[own], values, lead)
    with quiet():
        made = aggregate(relevance[own], list(values.values()), place, lead)
    place.args = ((*flat[: first + count], *flat[first + len(wanted) :], made),)
    joint.recompile()
    joint = simplify(joint).graph_module
    constants_first(joint)
    write_notes(joint, {promise.value: promise.resolution for promise in plan})
    entries = [*about.relevance, RelevanceSpec(about.relevance[0].tensor, own, "", AGGREGATE)]
    specs = (*about.relevance, specs_of(joint, about, entries)[-1])
    whole = replace(about, relevance=specs, plan=plan.to_dict(), aggregate=tuple(patterns))
    return Artefact.of(joint, forward, whole, artefact.structure)


def _explained(about: Metadata) -> str:
    """The one input whose relevance is returned."""
    inputs = {spec.name for spec in about.inputs}
    names = [entry.input for entry in about.relevance if entry.form == "total" and entry.input in inputs]
    if len(names) != 1:
        several = f"that of {', '.join(map(repr, names))} is returned: name one by wrt" if names else "none is returned"
        raise InputError(f"aggregate sums over the places of one input, and of relevance of inputs {several}.")
    return names[0]


def _check(own: str, relevance: fx.Node, values: dict[str, fx.Node], lead: int) -> None:
    """Refuse values whose places are not the input's, all of them at once."""
    size = relevance.meta["val"]
    wrong = {name: misfit(size, node.meta["val"], lead) for name, node in values.items()}
    named = [f"{name!r} {why}" for name, why in wrong.items() if why]
    if named:
        raise InputError(
            f"aggregate cannot bring these values to the places of input {own!r}: {'; '.join(named)}: leave them out."
        )
