"""The relevance of intermediate values, added to an explainer that is compiled already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.names import distinct
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.specs import AGGREGATE, RelevanceSpec, TensorSpec
from lrp_compiler.passes import ObservedForm, Options, Watch, joint_graph, with_forms
from lrp_compiler.passes.assign import reachable
from lrp_compiler.passes.graph import outputs
from lrp_compiler.passes.relevance import Question, feature_dim, maps_of
from lrp_compiler.rules.composite import Composite
from lrp_compiler.torch_private import sources_forgotten

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
    reached = reachable(forward, artefact.explained)
    wanted, coefficients = with_forms(known, forward, patterns, reached, form)
    coefficients = {
        entry.input: by_name[entry.node] for entry in about.relevance if entry.form == "unit"
    } | coefficients
    options = Options(Composite(about.name), artefact.seed, memory_budget=artefact.plan.budget, optimise=about.optimise)
    inputs = {spec.name: known[spec.name] for spec in about.inputs if spec.name in known}
    maps = maps_of(forward, about.aggregate, inputs, reached)
    question = Question(artefact.explained, wanted, artefact.latents, coefficients, maps)
    with quiet():
        joint, plan = joint_graph(forward, question, options, Watch())
    symbols = tensor_specs(joint.graph.find_nodes(op="placeholder"), [spec.name for spec in about.takes]).symbols
    taken = [spec.name for spec in (*about.takes, *about.outputs)]
    relevance = relevance_specs(question, outputs(joint)[len(about.outputs) :], symbols, taken)
    whole = replace(about, relevance=relevance, plan=plan.to_dict(), reduce=())
    made = Artefact.of(joint, forward, whole, artefact.structure)
    return reduced(made, about.reduce) if about.reduce else made


def relevance_specs(
    question: Question, values: Sequence[fx.Node], symbols: dict[Any, str], taken: Sequence[str]
) -> tuple[RelevanceSpec, ...]:
    """What the metadata says of each relevance: name, shape and dtype, and the forward node whose relevance it is.

    Args:
        question: of what relevance is returned.
        values: the relevances.
        symbols: names of symbolic sizes.
        taken: names of a file that are taken: those of its inputs.
    """
    every = [(name, node, "total") for name, node in question.wanted.items()]
    every += [(name, node, "unit") for name, node in question.coefficients.items()]
    unnamed = TensorSpec("", (), "")
    entries = [RelevanceSpec(unnamed, name, node.name, form, channels=_channels(node)) for name, node, form in every]
    entries += [RelevanceSpec(unnamed, name, "", AGGREGATE) for name in question.maps]
    specs = tensor_specs(values, distinct([entry.called for entry in entries], taken), symbols).tensors
    return tuple(replace(entry, tensor=spec) for entry, spec in zip(entries, specs, strict=True))


def _channels(node: fx.Node) -> int | None:
    """The dim of a value's channels; None: it is an input or a parameter, or has none behind the batch."""
    dim = feature_dim(node) if node.op == "call_function" else 0
    return dim if dim > 0 else None
