"""The order of the passes, written out once: capture's program in, the explainer's graphs out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, update_wrapper

import torch
from torch import fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.specs import AGGREGATE, COEFFICIENT
from lrp_compiler.passes.assign import (
    Decision,
    analyse,
    analyse_rules,
    assign_rules,
    choose_composite,
    decisions,
    move_into_loops,
    reachable,
    wanted_values,
    with_observed,
)
from lrp_compiler.passes.decompose import (
    make_dense,
    pair_complex,
    work_out_algebra,
    write_out_layer_norms,
    write_out_products,
    write_out_quantised,
    write_out_scatters,
    written_out,
)
from lrp_compiler.passes.forward import (
    Answer,
    Captured,
    beside_reference,
    block_attention,
    fold_batch_norm,
    read_step_by_step,
    recognise_dense_layers,
    recognise_functions,
    recognise_layer_norms,
    refuse_randomness,
    select_answer,
    select_by_function,
    select_explained,
    splice_dictionaries,
    split_bias,
    unlift,
)
from lrp_compiler.passes.graph import (
    Result,
    assignment,
    in_bodies,
    move_in_front,
    outputs,
    scans,
    simplify,
    without_unread,
    write_notes,
)
from lrp_compiler.passes.joint import constants_first, copy_repeated, join, lower_own_ops
from lrp_compiler.passes.optimise import OF_JOINT, merge_stabilisers
from lrp_compiler.passes.promises import Ledger, Plan, asked_values, checkpoint_loops, make_plan, resolve_promises
from lrp_compiler.passes.promises import plan as decide
from lrp_compiler.passes.relevance import Question, Seed, emit_relevance, latents_of, maps_of, open_loops
from lrp_compiler.rules.composite import Composite

from .options import ObservedForm, Options
from .stages import ASSIGNED, FINAL, FORWARD, JOINT, RELEVANCE, UNLIFTED, Stage
from .watch import Watch


@dataclass
class Compiled:
    """What the passes make of a program.

    Args:
        captured: the model, with references among its inputs where relevance is of differences from these.
        forward: the assigned forward graph; returns the model's flat outputs.
        question: what is explained, and of what relevance is returned.
        composite: which rule where; of `auto` the one that was chosen.
        joint: both in one: model inputs, seed inputs, latents → flat outputs, what the question asks for, in order.
        plan: the promises and how each is resolved.
        seed: what is explained, its classes counted from the front, and how much is put on it.
        decided: inputs that the explained value depends on through hard decisions alone, or of which some elements
            are such → these.
    """

    captured: Captured
    forward: fx.GraphModule
    question: Question
    composite: Composite
    joint: fx.GraphModule
    plan: Plan
    seed: Seed
    decided: Mapping[str, Decision] = field(default_factory=dict)


def compile_graphs(captured: Captured, options: Options, watch: Watch) -> Compiled:
    """All passes, in order.

    Raises:
        UnsupportedOpError: ops without a rule, all of them at once.
        InputError: the explained output depends on none of the inputs, or there is no such value as wrt names.
    """
    composite = options.composite
    forward = forward_graph(captured, watch, composite, options.wrt or (), options.splice)
    splice_dictionaries(forward, options.splice)
    watch.sees("splice_dictionaries", forward, FORWARD)
    name = captured.outputs[options.output]
    target = options.seed.target
    if options.function is not None:
        explained = select_by_function(forward, options.function, captured.structured)
        watch.sees("select_by_function", forward, FORWARD)
    elif isinstance(target, Answer):
        explained, target = select_answer(forward, options.output, name, target, captured.inputs)
        watch.sees("select_answer", forward, FORWARD)
    else:
        explained = select_explained(forward, options.output, name, target)
        watch.sees("select_explained", forward, FORWARD)
        target = target.counted(explained.meta["val"].shape[-1])
    options = replace(options, seed=replace(options.seed, target=target))
    block = 0 if composite.differences else options.attention_block
    blocks = block_attention(forward, block, (*options.named, explained.name))
    watch.sees("block_attention", forward, FORWARD, blocks.declined)
    watch.starts("assign rules")
    taking, whole = input_kinds(forward, captured, options.fixed)
    named = [name for name in whole if captured.inputs[name] in (options.wrt or ())]
    wanted: dict[str, fx.Node] = {}
    # Flags and whole numbers that are no indices take part where they are asked for, or where nothing else does.
    for numbers in (named, whole):
        inputs = list(dict.fromkeys([*taking, *numbers]))
        apart = analyse(forward, inputs, composite, options.wrt, options.optimise, numbers)
        reached = reachable(forward, explained)
        wanted = wanted_values(forward, options.wrt, captured.inputs, reached)
        if wanted:
            break
    decided = {
        captured.inputs.get(input.meta["input"], input.name): decision
        for input, decision in decisions(forward, explained, reached).items()
        if captured.inputs.get(input.meta["input"]) not in options.fixed
    }
    if not wanted and decided:
        first = next(iter(decided.values()))
        raise InputError(
            f"Output {name!r} depends on the inputs only through {first}, of which no input has a share: "
            f"{first.remedy}."
        )
    if not wanted:
        raise InputError(f"Output {name!r} depends on none of the inputs: there is nothing to explain.")
    if composite.differences:
        _refuse_weights(captured, options.wrt)
        inputs_reached = [node.meta["input"] for node in reached if node.op == "placeholder"]
        captured = beside_reference(forward, captured, inputs_reached)
        watch.sees("beside_reference", forward, FORWARD)
        apart = analyse(forward, inputs, composite, options.wrt, options.optimise, numbers)
        reached = reachable(forward, explained)
        wanted = wanted_values(forward, options.wrt, captured.inputs, reached)
    composite = choose_composite(composite, forward, reached)
    if options.optimise:
        moved = move_into_loops(forward, (*options.named, explained.name))
        watch.sees("move_into_loops", forward, FORWARD, moved.declined)
        reached = reachable(forward, explained)
    assign_rules(forward, composite, reached)
    watch.sees("assign_rules", forward, ASSIGNED, apart)
    open_loops(forward)
    watch.sees("open_loops", forward, ASSIGNED)
    wanted, coefficients = with_forms(wanted, forward, options.observe, reached, options.form)
    latents = latents_of(forward, options.masks, options.seeds, reached)
    put = {explained.name, *(latent.node for latent in latents if latent.kind == "seed")}
    analyse_rules(forward, [node for node in forward.graph.nodes if node.name in put], options.optimise)
    own = {name: node for name, node in wanted.items() if name in captured.inputs.values()}
    maps = maps_of(forward, options.aggregate, own, reached)
    question = Question(explained, wanted, latents, coefficients, maps)
    joint, plan = joint_graph(forward, question, options, watch)
    return Compiled(captured, forward, question, composite, joint, plan, options.seed, decided)


def _refuse_weights(captured: Captured, wrt: Sequence[str] | None) -> None:
    strange = [name for name in wrt or () if name not in captured.inputs.values()]
    if strange:
        raise InputError(f"wrt names {strange[0]!r}, which is no input: a weight does not differ at a reference.")


def with_forms(
    wanted: dict[str, fx.Node],
    forward: fx.GraphModule,
    observe: Sequence[str],
    reached: set[fx.Node],
    form: ObservedForm,
) -> tuple[dict[str, fx.Node], dict[str, fx.Node]]:
    """What is wanted with the observed values, and those of which the unit form is returned.

    Args:
        wanted: name → node, so far.
        forward: the forward graph, with its active nodes annotated.
        observe: patterns of the values.
        reached: the nodes that relevance reaches.
        form: in which they are returned.

    Raises:
        InputError: as `with_observed`; a coefficient of whole numbers.
    """
    both = with_observed(wanted, forward, observe, reached)
    seen = {} if form == "total" else with_observed({}, forward, observe, reached)
    for name, node in seen.items():
        if not node.meta["val"].is_floating_point():
            raise InputError(f"observe names {name!r}, which holds whole numbers: they have no coefficients.")
    return (wanted if form == "unit" else both), seen


PRIMITIVES_ASIDE = Composite("plain")
"""Layers are recognised, and batch norms folded."""


def forward_graph(
    captured: Captured,
    watch: Watch,
    composite: Composite = PRIMITIVES_ASIDE,
    wrt: Sequence[str] = (),
    spliced: Collection[str] = (),
) -> fx.GraphModule:
    """The program as the rules want it: composite ops written out, unlifted, one spelling, batch norms folded.

    With a composite of primitives every op stays by itself: nothing is recognised, batch norms are not folded, biases
    become additions. For one of differences normalisations are written out. Batch norms that `wrt` names, or whose
    weights it names, are not folded either; nor what reads the value of a module that is `spliced`.
    """
    watch.starts("decompose")
    forward = unlift(written_out(captured.program))
    watch.sees("unlift", forward, UNLIFTED)
    watch.starts("canonicalise")
    layers: tuple[Callable[[fx.GraphModule], Result], ...] = (split_bias,)
    if not composite.primitives:
        norms = write_out_layer_norms if composite.differences else recognise_layer_norms
        layers = (recognise_functions, norms, *(_keeping(wrt, spliced, pass_) for pass_ in WITH_WEIGHTS))
    written = (
        read_step_by_step,
        refuse_randomness,
        make_dense,
        work_out_algebra,
        write_out_scatters,
        write_out_quantised,
        write_out_products,
    )
    stages: dict[object, Stage] = dict.fromkeys(written, UNLIFTED)
    for rewrite in (*written, simplify, pair_complex, *layers):
        forward = _rewritten(forward, rewrite, watch, stages.get(rewrite, FORWARD))
    move_in_front(forward)
    watch.sees("move_in_front", forward, FORWARD)
    without_unread(forward)
    watch.sees("without_unread", forward, FORWARD)
    return forward


def _rewritten(
    module: fx.GraphModule, rewrite: Callable[[fx.GraphModule], Result], watch: Watch, stage: Stage, bodies: bool = True
) -> fx.GraphModule:
    """What a pass makes of the graph and, if asked, of loops' bodies, before the eyes of who watches."""
    result = rewrite(module)
    module = result.graph_module
    inside = in_bodies(module, rewrite) if bodies else []
    watch.sees(rewrite.__name__, module, stage, (*result.declined, *inside))
    return module


WITH_WEIGHTS: tuple[Callable[..., Result], ...] = (recognise_dense_layers, fold_batch_norm)
"""Passes that make other weights of the model's; they let those be whose relevance is asked for."""


def _keeping(
    wrt: Sequence[str], spliced: Collection[str], rewrite: Callable[..., Result]
) -> Callable[[fx.GraphModule], Result]:
    return update_wrapper(partial(rewrite, kept=wrt, apart=spliced), rewrite)


def input_kinds(forward: fx.GraphModule, captured: Captured, fixed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Placeholders of what may carry relevance, and those of whole numbers or flags, which may be features."""
    own = [node for node in forward.graph.find_nodes(op="placeholder") if node.meta["input"] in captured.inputs]
    free = [node for node in own if captured.inputs[node.meta["input"]] not in fixed]
    taking = set(explainable_inputs(forward))
    numbers = [node for node in free if not (node.meta["val"].is_floating_point() or node.meta["val"].is_complex())]
    return [str(node.meta["input"]) for node in free if node.meta["input"] in taking], [
        str(node.meta["input"]) for node in numbers
    ]


def explainable_inputs(forward: fx.GraphModule) -> list[str]:
    """Inputs that may carry relevance by their dtype: floats, pixels and indices, not booleans (see `input_kinds`)."""
    return [
        node.meta["input"]
        for node in forward.graph.find_nodes(op="placeholder")
        if node.meta["val"].dtype is not torch.bool
    ]


def joint_graph(
    forward: fx.GraphModule, question: Question, options: Options, watch: Watch
) -> tuple[fx.GraphModule, Plan]:
    """The second half of the passes: the relevance of what is wanted, behind the assigned forward graph.

    Args:
        forward: the forward graph, every node that relevance reaches with its rule; it stays as it is.
        question: what is explained, and the relevance of what is returned; that of its coefficients is called
            `coefficient.<name>`, a map `aggregate.<name>`.
        options: of these the seed, the budget, and whether to optimise.
        watch: told what is done.
    """
    watch.starts("emit relevance")
    named = {f"{COEFFICIENT}{name}": node for name, node in question.coefficients.items()}
    maps = {f"{AGGREGATE}.{name}": nodes for name, nodes in question.maps.items()}
    relevance, promises = emit_relevance(forward, replace(question, coefficients=named, maps=maps), options.seed)
    watch.sees("emit_relevance", relevance, RELEVANCE)
    watch.starts("resolve promises")
    relevance = _rewritten(relevance, simplify, watch, RELEVANCE, bodies=False)
    if options.optimise:
        merged = merge_stabilisers(relevance, forward)
        relevance = merged.graph_module
        watch.sees("merge_stabilisers", relevance, RELEVANCE, merged.declined)
    reached = reachable(forward, question.explained)
    path = [node for node in forward.graph.nodes if node in reached and assignment(node) is not None]
    ledger = Ledger.of(forward)
    asked = asked_values(relevance, ledger, promises)
    held, loops = dict[str, int](), 0
    if options.memory_budget < 1 and scans(forward):
        before = [node.name for node in asked]
        found = checkpoint_loops(forward, relevance, promises)
        watch.sees("checkpoint_loops", relevance, RELEVANCE, found.declined)
        whole = Ledger.of(forward, found.at)
        promised = decide(whole.values, [index for node, index in whole.index.items() if node.name in before]).promised
        forward, path = found.forward, [found.nodes[node] for node in path]
        held, loops = {"of": promised, "besides": found.besides}, found.loops
        relevance = _rewritten(relevance, simplify, watch, RELEVANCE, bodies=False)
        ledger = Ledger.of(forward, found.at)
        asked = asked_values(relevance, ledger, found.promises)
    decision = decide(ledger.values, [ledger.index[value] for value in asked], options.memory_budget, **held)
    plan = make_plan(ledger, asked, decision, path, options.memory_budget, loops)
    relevance = resolve_promises(relevance, ledger, decision)
    watch.sees("resolve_promises", relevance, RELEVANCE)
    joint = join(forward, relevance)
    watch.sees("join", joint, JOINT)
    watch.starts("simplify")
    without_unread(joint)
    watch.sees("without_unread", joint, JOINT)
    for rewrite in (lower_own_ops, simplify):
        joint = _rewritten(joint, rewrite, watch, FINAL)
    for rewrite in OF_JOINT if options.optimise else ():
        joint = _rewritten(joint, rewrite, watch, FINAL, bodies=False)
    copy_repeated(joint, len(outputs(forward)))
    watch.sees("copy_repeated", joint, FINAL)
    constants_first(joint)
    watch.sees("constants_first", joint, FINAL)
    write_notes(joint, {promise.value: promise.resolution for promise in plan})
    watch.sees("write_notes", joint, FINAL)
    return joint, plan
