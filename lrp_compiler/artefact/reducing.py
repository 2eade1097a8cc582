"""Relevance made smaller at the end of an explainer that is compiled already."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.names import distinct
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.reductions import check_taken
from lrp_compiler.base.specs import ABSORBED, SUM, RelevanceSpec, TensorSpec
from lrp_compiler.passes.forward import explained_value
from lrp_compiler.passes.graph import (
    Origin,
    is_tensor,
    module_path,
    origin,
    outputs,
    set_origin,
    simplify,
    trace_into,
    twins_of,
    write_notes,
)
from lrp_compiler.passes.joint import constants_first, reduce, row_sums
from lrp_compiler.passes.relevance import Seed, seed_relevance
from lrp_compiler.rules import difference, times
from lrp_compiler.torch_private import sources_forgotten

from .artefact import Artefact
from .shapes import tensor_specs


@sources_forgotten()
def reduced(artefact: Artefact, names: Sequence[str]) -> Artefact:
    """The same explainer, whose relevance leaves it reduced; with Σ relevance of every row, and what else took a share.

    Args:
        artefact: the explainer; it stays as it is.
        names: of the reductions, checked.

    Raises:
        InputError: it is reduced already, a reduction fits no relevance, or a relevance has no rows.
    """
    about = artefact.about
    if about.reduce:
        raise InputError(f"This explainer's relevance is reduced already ({', '.join(about.reduce)}).")
    if ABSORBED in (spec.name for spec in about.inputs):
        raise InputError(f"The model has an input {ABSORBED!r}, as a reduced explainer calls a result: rename it.")
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    flat: Any = graph.graph_copy(artefact.module.graph, copies)
    graph.output(flat)
    graph.output_node().meta.update(artefact.module.graph.output_node().meta)
    joint = fx.GraphModule(copy.copy(artefact.module), graph)
    with quiet():
        made, entries = _replaced(joint, artefact, names)
    graph.output_node().args = (tuple(made),)
    joint.recompile()
    joint = simplify(joint).graph_module
    constants_first(joint)
    write_notes(joint, {promise.value: promise.resolution for promise in artefact.plan})
    relevance = specs_of(joint, about, entries)
    return Artefact.of(
        joint, artefact.forward, replace(about, relevance=relevance, reduce=tuple(names)), artefact.structure
    )


def _replaced(joint: fx.GraphModule, artefact: Artefact, names: Sequence[str]) -> tuple[list[Any], list[RelevanceSpec]]:
    """What the graph returns now, and what each relevance among it is (their tensors are still those of before)."""
    about, place, flat = artefact.about, joint.graph.output_node(), outputs(joint)
    lead = 1 + (about.several is not None)
    own, inputs = len(about.outputs), {spec.name for spec in about.inputs}
    weights = {node.name for node in artefact.forward.graph.find_nodes(op="get_attr")}
    made, entries, sums = flat[:own], [], {}
    taken: set[int] = set()
    for entry, node in zip(about.relevance, flat[own:], strict=True):
        if entry.form != "total":
            parts = {"": node}
        else:
            _check_rows(entry, about, weights)
            parts, done = reduce(node, place, names, lead)
            taken |= done
            if entry.input in inputs:
                sums[entry.input] = row_sums(node, place, lead)
        made += parts.values()
        entries += [replace(entry, part=part) for part in parts]
    check_taken(names, taken)
    made += sums.values()
    entries += [RelevanceSpec(about.relevance[0].tensor, name, "", SUM) for name in sums]
    seeded = _seeded(joint, artefact)
    if seeded is not None and sums:
        made.append(trace_into(place, _difference, [seeded, *sums.values()], like=next(iter(sums.values()))))
        entries.append(RelevanceSpec(about.relevance[0].tensor, ABSORBED, "", ABSORBED))
    return made, entries


def _difference(seeded: Tensor, *sums: Tensor) -> Tensor:
    """Of what was put on the output, what did not arrive."""
    for share in sums:
        seeded = seeded - share
    return seeded


def _check_rows(entry: RelevanceSpec, about: Metadata, weights: Collection[str]) -> None:
    """Refuse the relevance of a weight, which is a sum over the batch."""
    dims = entry.tensor.shape[about.several is not None :]
    batches = {spec.shape[:1] for spec in (*about.inputs, *about.outputs)}
    if entry.node in weights or not dims or dims[:1] not in batches:
        raise InputError(
            f"Relevance of {entry.input!r} has no rows, so that it cannot be reduced: leave it out of wrt."
        )


def _seeded(joint: fx.GraphModule, artefact: Artefact) -> fx.Node | None:
    """What is put on the explained output for every row, `[…, batch]`; None where it is not known.

    That is where relevance is also put on values inside.
    """
    about, explained = artefact.about, explained_value(artefact.forward)
    if about.picks is None or explained is None or any(latent.kind == "seed" for latent in about.latents):
        return None
    ends = [_in_joint(joint, end) for end in (explained, twins_of(artefact.forward).get(explained)) if end is not None]
    if None in ends:
        return None
    placeholders, seed = joint.graph.find_nodes(op="placeholder"), artefact.seed
    given = {
        spec.name: node
        for spec, node in zip(about.takes, placeholders, strict=True)
        if spec.name in seed.inputs and spec in about.choices
    }
    like = next(node for node in outputs(joint)[len(about.outputs) :] if isinstance(node, fx.Node))

    def put(given: dict[str, Tensor], *ends: Tensor) -> Tensor:
        return _put(seed, given, *ends)

    return trace_into(joint.graph.output_node(), put, [given, *ends], like=like)


def _put(seed: Seed, given: dict[str, Tensor], *ends: Tensor) -> Tensor:
    """Of the explained value, and of what it is at a reference, if there is one."""
    wide = [end if end.dtype.is_floating_point and end.element_size() >= 4 else end.float() for end in ends]
    start = seed_relevance(wide[0], seed, given)
    assert start is not None
    return start.total_of(lambda: difference(*wide) if len(wide) > 1 else wide[0], times).sum(-1)


def _in_joint(joint: fx.GraphModule, explained: fx.Node) -> fx.Node | None:
    """The joint graph's node of the explained value, made anew where it is calculated no more; None: it cannot be."""
    named = [(origin(node), node) for node in joint.graph.nodes]
    forward = {known.value: node for known, node in named if known is not None and known.phase == "forward"}
    copies: dict[fx.Node, fx.Node] = {}
    waiting = [explained]
    while waiting:
        node = waiting[-1]
        missing = [source for source in node.all_input_nodes if source not in copies]
        if node in copies:
            waiting.pop()
        elif node.name in forward and _is_like(forward[node.name], node):
            copies[waiting.pop()] = forward[node.name]
        elif node.op != "call_function":
            return None
        elif missing:
            waiting += missing
        else:
            with joint.graph.inserting_before(joint.graph.output_node()):
                copies[waiting.pop()] = made = joint.graph.node_copy(node, copies.__getitem__)
            set_origin(made, Origin("forward", node.name, module_path(node)))
    return copies[explained]


def _is_like(node: fx.Node, other: fx.Node) -> bool:
    """Whether one is what the other was: of several operations that were written out for it the last alone is."""
    if not is_tensor(other):
        return not is_tensor(node)
    return is_tensor(node) and node.meta["val"].dim() == other.meta["val"].dim()


def specs_of(joint: fx.GraphModule, about: Metadata, entries: Sequence[RelevanceSpec]) -> tuple[RelevanceSpec, ...]:
    """The entries, each with name, shape and dtype of what the graph returns for it."""
    symbols = tensor_specs(joint.graph.find_nodes(op="placeholder"), [spec.name for spec in about.takes]).symbols
    taken = [spec.name for spec in (*about.takes, *about.outputs)]
    called = [entry.called for entry in entries]
    specs = tensor_specs(outputs(joint)[len(about.outputs) :], distinct(called, taken), symbols).tensors
    return tuple(replace(entry, tensor=_named(spec, entry.input)) for entry, spec in zip(entries, specs, strict=True))


def _named(spec: TensorSpec, of: str) -> TensorSpec:
    """A size that is worked out, of patches, has no name yet; equal names are equal sizes, so it has the input's."""
    name = re.sub(r"\W", "_", of)
    shape = tuple(
        dim if isinstance(dim, int) or dim.isidentifier() else f"{name}_patches_{number}"
        for number, dim in enumerate(spec.shape)
    )
    return replace(spec, shape=shape)
