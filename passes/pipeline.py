"""The order of the passes, written out once: capture's program in, the explainer's graphs out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.assign.assign_rules import assign_rules, fixed_values, reachable
from lrp_compiler.passes.assign.borders import zero_border
from lrp_compiler.passes.assign.collapse_modules import collapse_modules
from lrp_compiler.passes.assign.find_gates import find_gates
from lrp_compiler.passes.assign.freeze_statistics import statistics
from lrp_compiler.passes.assign.fuse_functions import fuse_functions
from lrp_compiler.passes.assign.signs import nonnegative_values
from lrp_compiler.passes.assign.wanted_values import parameters_of, wanted_values, with_observed
from lrp_compiler.passes.decompose.complex_pairs import pair_complex
from lrp_compiler.passes.decompose.products import write_out_products
from lrp_compiler.passes.decompose.scatters import write_out_scatters
from lrp_compiler.passes.decompose.table import decomposition_table
from lrp_compiler.passes.forward.fold_batch_norm import fold_batch_norm
from lrp_compiler.passes.forward.select_explained import select_by_function, select_explained
from lrp_compiler.passes.forward.split_bias import split_bias
from lrp_compiler.passes.forward.unlift import unlift
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.notes import note_promises
from lrp_compiler.passes.graph.simplify import simplify
from lrp_compiler.passes.graph.text import graph_text
from lrp_compiler.passes.graph.tools import outputs
from lrp_compiler.passes.joint.join import copy_repeated, join
from lrp_compiler.passes.joint.lower_own_ops import lower_own_ops
from lrp_compiler.passes.optimise.concatenate_pieces import concatenate_pieces
from lrp_compiler.passes.optimise.gather_constants import gather_constants
from lrp_compiler.passes.optimise.lower_transposes import lower_transposes
from lrp_compiler.passes.optimise.merge_stabilisers import merge_stabilisers
from lrp_compiler.passes.optimise.positive_branch import leave_out_negative_branches
from lrp_compiler.passes.optimise.route_windows import route_windows
from lrp_compiler.passes.promises.ledger import Ledger
from lrp_compiler.passes.promises.plan import Plan, make_plan
from lrp_compiler.passes.promises.planner import plan as decide
from lrp_compiler.passes.promises.resolve import asked_values, resolve_promises
from lrp_compiler.passes.relevance.emit import emit_relevance
from lrp_compiler.passes.relevance.seed import Seed
from lrp_compiler.rules.composite import Composite

Progress = Callable[[str], None]


OPTIMISATIONS = (lower_transposes, concatenate_pieces, gather_constants, route_windows)
"""Rewrites of the joint graph that change its speed and nothing else. Before it is joined, `nonnegative_values`,
`leave_out_negative_branches` and `merge_stabilisers` do the same for the rules and the relevance graph."""


@dataclass
class Compiled:
    """What the passes make of a program.

    Args:
        forward: the assigned forward graph; returns the model's flat outputs.
        output: which of the flat outputs is explained.
        explained: the `[batch, classes]` node that is explained.
        joint: both in one: model inputs, seed inputs → flat outputs, relevance of each value asked for.
        wanted: name → forward node, of the values whose relevance the joint graph returns, in order.
        plan: the promises and how each is resolved.
    """

    forward: fx.GraphModule
    output: int
    explained: fx.Node
    joint: fx.GraphModule
    wanted: dict[str, fx.Node]
    plan: Plan


class Dump:
    """Writes each graph into a folder as text, numbered in the order of the passes."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = Path(folder) if folder else None
        self._count = 0

    def __call__(self, name: str, module: fx.GraphModule) -> None:
        """Write one graph; nothing without a folder."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        (self._folder / f"{self._count:02d}_{name}.txt").write_text(graph_text(module), encoding="utf-8")


def forward_graph(program: ExportedProgram, dump: Dump, progress: Progress, primitives: bool = False) -> fx.GraphModule:
    """The program as the rules want it: composite ops written out, unlifted, one spelling, batch norms folded.

    With `primitives` every op stays by itself: batch norms are not folded, biases become additions.
    """
    progress("decompose")
    forward = unlift(program.run_decompositions(decomposition_table()))
    dump("unlift", forward)
    progress("canonicalise")
    biases = split_bias if primitives else fold_batch_norm
    for rewrite in (write_out_scatters, write_out_products, simplify, pair_complex, biases):
        forward = rewrite(forward).graph_module
        dump(rewrite.__name__, forward)
    return forward


def explainable_inputs(forward: fx.GraphModule) -> list[str]:
    """Inputs that may carry relevance: floats, pixels and indices; booleans never do."""
    return [
        node.meta["input"]
        for node in forward.graph.find_nodes(op="placeholder")
        if node.meta["val"].dtype is not torch.bool
    ]


def analyse(
    forward: fx.GraphModule,
    inputs: Sequence[str],
    composite: Composite,
    wrt: Sequence[str] | None = None,
    optimise: bool = True,
) -> None:
    """Annotate the forward graph: where relevance flows, what is frozen, which regions are one function, borders.

    Args:
        forward: the forward graph.
        inputs: names of the placeholders that may carry relevance.
        composite: says which modules are explained as a whole, and whether primitives stay by themselves.
        wrt: the values whose relevance is asked for; parameters among them take part.
        optimise: whether rules are told which operands are ≥ 0.
    """
    frozen = () if composite.primitives else statistics(forward)
    mark_active(forward, inputs, frozen)
    fixed = fixed_values(forward, composite)
    mark_active(forward, inputs, frozen, parameters_of(forward, wrt), fixed)
    collapse_modules(forward, composite)
    if not composite.primitives:
        fuse_functions(forward)
    nonnegative = nonnegative_values(forward)
    find_gates(forward, nonnegative)
    for node in forward.graph.nodes:
        given = assignment(node)
        if given is not None:
            given.borders = {name: border for name in given.active if (border := zero_border(given.arguments[name]))}
        if given is not None and optimise:
            given.nonnegative = tuple(name for name in given.active if given.arguments[name] in nonnegative)


def compile_graphs(
    program: ExportedProgram,
    composite: Composite,
    seed: Seed,
    *,
    inputs: Mapping[str, str],
    output: int,
    output_name: str,
    function: Callable[[Any], Any] | None = None,
    wrt: Sequence[str] | None = None,
    observe: Sequence[str] = (),
    memory_budget: float = 1.0,
    optimise: bool = True,
    dump: Dump | None = None,
    progress: Progress = lambda stage: None,
) -> Compiled:
    """All passes, in order.

    Args:
        program: the captured model.
        composite: which rule where.
        seed: what is explained, and how much is put on it.
        inputs: placeholder name → public name.
        output: position of the explained output among the flat outputs.
        output_name: its name, for messages.
        function: explains what it makes of the model's outputs instead, `[batch]`.
        wrt: names of inputs, parameters and modules to explain; default: all inputs that carry relevance.
        observe: patterns of modules or nodes whose values' relevance is returned as well.
        memory_budget: share of the promised bytes that may be held; the rest is rebuilt.
        optimise: whether to do the same with fewer operations; see `OPTIMISATIONS`.
        dump: where to write the graph after each pass.
        progress: told the name of each stage when it starts.

    Raises:
        UnsupportedOpError: ops without a rule, all of them at once.
        InputError: the explained output depends on none of the inputs, or there is no such value as wrt names.
    """
    dump = dump or Dump(None)
    forward = forward_graph(program, dump, progress, composite.primitives)
    explainable = explainable_inputs(forward)
    if function is None:
        explained = select_explained(forward, output, output_name, seed.target)
        seed.target.check(explained.meta["val"].shape[-1])
    else:
        explained = select_by_function(forward, function, program.call_spec.out_spec)
    progress("assign rules")
    analyse(forward, explainable, composite, wrt, optimise)
    reached = reachable(forward, explained)
    wanted = wanted_values(forward, wrt, inputs, reached)
    if not wanted:
        raise InputError(f"Output {output_name!r} depends on none of the inputs: there is nothing to explain.")
    wanted = with_observed(wanted, forward, observe, reached)
    assign_rules(forward, composite, reached)
    if optimise:
        leave_out_negative_branches(forward, explained)
    dump("assign_rules", forward)
    joint, plan = joint_graph(
        forward,
        explained,
        seed,
        wanted,
        memory_budget=memory_budget,
        optimise=optimise,
        dump=dump,
        progress=progress,
    )
    return Compiled(forward, output, explained, joint, wanted, plan)


def joint_graph(
    forward: fx.GraphModule,
    explained: fx.Node,
    seed: Seed,
    wanted: Mapping[str, fx.Node],
    *,
    memory_budget: float = 1.0,
    optimise: bool = True,
    dump: Dump | None = None,
    progress: Progress = lambda stage: None,
) -> tuple[fx.GraphModule, Plan]:
    """The second half of the passes: the relevance of what is wanted, behind the assigned forward graph.

    Args:
        forward: the forward graph, every node that relevance reaches with its rule; it stays as it is.
        explained: its `[batch, classes]` value that is explained.
        seed: what is put on it.
        wanted: name → the node whose relevance is returned under it.
        memory_budget, optimise, dump, progress: as `compile_graphs` takes them.
    """
    dump = dump or Dump(None)
    progress("emit relevance")
    relevance, promises = emit_relevance(forward, explained, seed, wanted)
    dump("emit_relevance", relevance)
    progress("resolve promises")
    relevance = simplify(relevance).graph_module
    if optimise:
        relevance = merge_stabilisers(relevance, forward).graph_module
        dump("merge_stabilisers", relevance)
    ledger = Ledger.of(forward)
    asked = asked_values(relevance, ledger, promises)
    decision = decide(ledger.values, [ledger.index[value] for value in asked], memory_budget)
    reached = reachable(forward, explained)
    path = [node for node in forward.graph.nodes if node in reached and assignment(node) is not None]
    plan = make_plan(ledger, asked, decision, path, memory_budget)
    relevance = resolve_promises(relevance, ledger, decision)
    dump("resolve_promises", relevance)
    joint = join(forward, relevance)
    dump("join", joint)
    progress("simplify")
    for rewrite in (lower_own_ops, simplify, *(OPTIMISATIONS if optimise else ())):
        joint = rewrite(joint).graph_module
        dump(rewrite.__name__, joint)
    copy_repeated(joint, len(outputs(forward)))
    note_promises(joint, {promise.value: promise.resolution for promise in plan})
    return joint, plan
