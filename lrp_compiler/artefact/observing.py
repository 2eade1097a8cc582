"""The relevance of intermediate values, added to an explainer that is compiled already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.names import distinct
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.specs import COEFFICIENT, RelevanceSpec
from lrp_compiler.passes import ObservedForm, Options, Watch, joint_graph, with_forms
from lrp_compiler.passes.assign import reachable
from lrp_compiler.passes.graph import outputs
from lrp_compiler.passes.relevance import Question, feature_dim
from lrp_compiler.rules.composite import Composite
from lrp_compiler.torch_private import sources_forgotten

from .aggregating import aggregated
from .artefact import Artefact
from .reducing import reduced
from .shapes import tensor_specs


@sources_forgotten()
def observed(artefact: Artefact, patterns: Sequence[str], form: ObservedForm = "total") -> Artefact:
    """See `Explainer.observe`."""
    forward, about = artefact.forward, artefact.about
    if not all(entry.node for entry in about.relevance if entry.form in ("total", "unit")):
        raise InputError("This explainer's file is of an earlier release: compile the model again, with observe=.")
    by_name = {node.name: node for node in forward.graph.nodes}
    known = {entry.input: by_name[entry.node] for entry in about.relevance if entry.form == "total"}
    wanted, coefficients = with_forms(known, forward, patterns, reachable(forward, artefact.explained), form)
    coefficients = {
        entry.input: by_name[entry.node] for entry in about.relevance if entry.form == "unit"
    } | coefficients
    options = Options(Composite(about.name), artefact.seed, memory_budget=artefact.plan.budget, optimise=about.optimise)
    with quiet():
        question = Question(artefact.explained, wanted, artefact.latents, coefficients)
        joint, plan = joint_graph(forward, question, options, Watch())
    symbols = tensor_specs(joint.graph.find_nodes(op="placeholder"), [spec.name for spec in about.takes]).symbols
    taken = [spec.name for spec in (*about.takes, *about.outputs)]
    relevance = relevance_specs(wanted, outputs(joint)[len(about.outputs) :], symbols, taken, coefficients)
    whole = replace(about, relevance=relevance, plan=plan.to_dict(), reduce=(), aggregate=())
    made = Artefact.of(joint, forward, whole, artefact.structure)
    made = aggregated(made, about.aggregate) if about.aggregate else made
    return reduced(made, about.reduce) if about.reduce else made


def relevance_specs(
    wanted: Mapping[str, fx.Node],
    values: Sequence[fx.Node],
    symbols: dict[Any, str],
    taken: Sequence[str],
    coefficients: Mapping[str, fx.Node],
) -> tuple[RelevanceSpec, ...]:
    """What the metadata says of each relevance: name, shape and dtype, and the forward node whose relevance it is.

    Args:
        wanted: what relevance is asked of, by name.
        values: the relevances.
        symbols: names of symbolic sizes.
        taken: names of a file that are taken: those of its inputs.
        coefficients: what relevance in unit form is asked of, by name.
    """
    every = [(name, node, "total") for name, node in wanted.items()]
    every += [(name, node, "unit") for name, node in coefficients.items()]
    called = [f"{'relevance.' if form == 'total' else COEFFICIENT}{name}" for name, _, form in every]
    specs = tensor_specs(values, distinct(called, taken), symbols).tensors
    return tuple(
        RelevanceSpec(spec, name, node.name, form, channels=_channels(node))
        for (name, node, form), spec in zip(every, specs, strict=True)
    )


def _channels(node: fx.Node) -> int | None:
    """The dim of a value's channels; None: it is an input or a parameter, or has none behind the batch."""
    dim = feature_dim(node) if node.op == "call_function" else 0
    return dim if dim > 0 else None
