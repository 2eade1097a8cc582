"""`compile`: a model in, its explainer out. Reads like the diagram in ARCHITECTURE.md."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor

from lrp_compiler.artefact import Artefact
from lrp_compiler.artefact.describe import artefact_of
from lrp_compiler.artefact.provenance import SPECIALISED
from lrp_compiler.artefact.reducing import reduced
from lrp_compiler.base.boundary import boundary, describe_node
from lrp_compiler.base.collection import rare_collection
from lrp_compiler.base.errors import CompositeError, InputError, LrpWarning, did_you_mean
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.reductions import check_reductions
from lrp_compiler.base.validate import check_names, check_option, is_number, shortened, whole_number
from lrp_compiler.cache import Entry, cache_of
from lrp_compiler.capture import Model, capture, check_same_output, load_model, other_at_one
from lrp_compiler.explainer import Explainer
from lrp_compiler.passes import Compiled, ObservedForm, Options, Watch, compile_graphs
from lrp_compiler.passes.assign import reachable
from lrp_compiler.passes.forward import OUTPUT, Answer, Captured, Explained, Pick, Target
from lrp_compiler.passes.graph import assignment, everywhere
from lrp_compiler.passes.relevance import Mask, Put, Seed
from lrp_compiler.rules.composite import Composite
from lrp_compiler.rules.composites import composite_named
from lrp_compiler.torch_private import sources_forgotten


@boundary("compile the model")
@rare_collection()
def compile(
    model: Model,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    composite: str | Composite = "auto",
    target: Explained | Pick | Sequence[Pick] | None = "argmax",
    seed: str | None = None,
    wrt: str | Sequence[str] | None = None,
    fixed: str | Sequence[str] = (),
    observe: str | Sequence[str] = (),
    form: ObservedForm = "total",
    masks: str | Mask | Sequence[str | Mask] = (),
    seeds: str | Put | Sequence[str | Put] = (),
    splice: Mapping[str, Any] | None = None,
    aggregate: str | Sequence[str] = (),
    reduce: str | Sequence[str] = (),
    dynamic_shapes: Any = None,
    memory_budget: float = 1.0,
    attention_block: int | None = None,
    optimise: bool = True,
    cache: bool | str | os.PathLike[str] = False,
    dump: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Explainer:
    """Compile a model into its explainer: one graph that predicts and says how much every input element contributed.

    The model is not modified. The explainer holds a reference to its weights as they are now (batch norms are folded
    into copies): compile again after training on.

    Args:
        model: an nn.Module in eval mode, an ExportedProgram, or the path of a `.pt2` file; an ONNX model, or the path
            of an `.onnx` file (see `from_onnx`).
        args: example inputs of a module; cloned, never kept. What `dynamic_shapes` opens is 2 or more in them, since
            torch.export takes a size of 1 for a constant. Of an ONNX model they are made from the file, if none are
            given.
        kwargs: example inputs by name.
        composite: which rule where: a name ("epsilon-plus", "attnlrp", …), or a `Composite` (`lrp.composites`).
            "auto": one that is chosen from the model's structure, by what was most faithful to networks of that
            structure; the explainer and its metadata say which, and why.
        target: what is explained: "argmax" (each row's largest logit), a class number, "index" (an int64 input
            `target` of shape `[batch]` at run time), a pair `(a, b)` (logit a minus logit b), or a list of class
            numbers and pairs (all in one run; relevance has a leading dim `[targets]`). A `Target` also says which
            output and which position. A function of the model's outputs that returns `[batch]` is traced with them.
            None: nothing is put on the output; relevance starts where `seeds` says. An `lrp.Answer` explains the tokens
            of a text that a language model wrote: any of them, by weights of the call.
        seed: relevance put on it: "value" (the logit itself), "one", or "tensor" (a run-time input `seed` of the
            shape of the explained logits, `[batch, classes]`). Default: the composite's, mostly "value".
        wrt: what relevance is asked of: names of inputs, of parameters (`fc.weight`: summed over the batch) and of
            modules (`encoder.layer.3`: the values that leave them). Default: all inputs that carry relevance; whole
            numbers and flags do as indices, and as numbers where they are named here or nothing else does. Leaving an
            input out does not change the relevance of the others. A parameter that has several names (tied weights)
            goes by each, and gets the sum over its uses; a batch norm that is named, or whose weights are, is not
            folded into the map before it, but explained by itself (its bias takes the share of all that it adds).
        fixed: names of inputs that are held constant, as if they were weights: a mask, an edge weight, whatever is no
            feature. All relevance goes to the others.
        observe: intermediate values whose relevance is returned as well, by the path of the module that they leave
            (`encoder.layer.*`: `*` stays between two dots, `**` does not) or by the name of a node of the forward graph
            (`softmax*`; `Explainer.show` lists them). Whole tensors, in their own shape; the inputs' relevance stays
            what it is. Of a map into which a batch norm (or a bias that a module of its own adds) is folded, the paths
            of both mean one value, that which leaves the second.
        form: of what is observed: "total": relevance; "unit": its coefficient g, with relevance = value ⊙ g, which is
            RelP's (arXiv 2508.21258), as `explanation.coefficients`; "both".
        masks: values, named as in `observe`, whose relevance is multiplied by a mask of the call before it goes on
            towards the inputs: a mask is an input `mask.<path>` of shape `[batch, channels]`, of ones where it is not
            given; see `lrp.Mask` for other shapes. Masks of two layers are an AND, the ones in one mask an OR: the
            conditions of Concept Relevance Propagation (arXiv 2206.03208).
        seeds: values, named as in `observe`, on which a call may put relevance: an input `seed.<path>` in the shape of
            the value, of zeros where it is not given; see `lrp.Put`. It is added to what comes from the target.
        splice: path of a module → a dictionary (a sparse autoencoder: any object with `encode(x)`, which returns
            features, and `decode(features)`, which returns something like x), spliced in behind the value that leaves
            this module: what the model returns stays the same. Its values are named `<path>.features`,
            `<path>.approximation` and `<path>.remainder` (what it misses, its decoder's bias included) in masks, seeds
            and observe; the relevance of the value is that of the last two. No batch norm behind it is folded.
        aggregate: values, named as in `observe`, over which relevance is summed into one map of the explained input, as
            `explanation.aggregate`: `[batch, height, width]` of an image `[batch, channels, height, width]` (so do
            volumes), `[batch, sequence]` of tokens or of embeddings `[batch, sequence, features]`. Relevance of each
            value is summed over its channels (of sequences its features), brought to the input's size by bilinear
            interpolation times the ratio of the areas (so that its sum stays the same, exactly where sizes are whole
            multiples), and added to the input's own. It is a score, not a decomposition: relevance counts once at every
            value that it passes, and audit and books know nothing of it.
        reduce: what relevance is made smaller by, in the graph, before it is returned: names, done one after the other,
            such as `["channels", "patch:16", "float16"]`. "channels" sums over the first dim behind the batch,
            "features" over the last, "heads" over all but the first; "patch:N" over patches of N by N elements of the
            last two dims (of N, if there is one), those at the end of what is left; "signs" takes the positive and the
            negative part apart, "top:K" the K elements of largest magnitude (`.positions`, `.values`; −1 and 0 where
            there are fewer); "float16" rounds; "sums" leaves relevance as it is. With any of them the explanation has
            `sums`: Σ relevance of every row and input, and `absorbed`, what else took a share of the explained value.
            Observed values are reduced, too; coefficients are not, nor what has fewer dims than a reduction needs.
        dynamic_shapes: as torch.export takes it; of an ONNX model the file's own, if it is not given.
        memory_budget: share, 0 to 1, of the promised bytes that may be held at once; what is not kept is rebuilt when
            relevance gets there. Less memory takes more time; `Explainer.plan` says what was reached.
        attention_block: how many queries of an attention are gone through at once (`softmax(QKᵀ + mask)V`, whatever
            module or function it was written with): its scores, sequence × sequence for each head, are then held for
            one block alone, and calculated again when relevance gets there. 0: all at once. None: blocks of 128 where
            the scores may take more than 256 MiB, by the example's batch and the longest sequence that
            `dynamic_shapes` allows (`Dim("sequence", max=4096)`; without a bound, the example's). Relevance is the
            same. Attention whose scores `observe`, `masks` or `seeds` name stays whole, and so does all of it where
            relevance is of differences (`composite="reference"`); inside blocks nothing can be masked.
        optimise: whether the same relevance is calculated with fewer operations; False leaves every rule as it is
            written down, to compare with.
        cache: whether graphs that were compiled before are taken again: True, or the path of a folder (of True:
            environment `LRP_COMPILER_CACHE`, or `~/.cache/lrp_compiler`). They are those of the same model, but for the
            values of its weights, with the same options and versions; the weights are put in as they are now, and what
            the graphs return is compared with the model on the example inputs. What cannot be kept is compiled as
            without, and a warning says why; what is spliced in never is. Nothing is ever removed from the folder:
            remove it when you like.
        dump: folder into which the graph is written after every pass (also: environment `LRP_COMPILER_DUMP`).
        progress: called with the name of each stage when it starts.

    Raises:
        CaptureError: torch.export cannot trace the model, or it is in training mode.
        UnsupportedOpError: ops without a rule: all of them at once.
        CompositeError: unknown composite, or one that gives an op a rule that does not fit.
        InputError: example inputs, target, seed, wrt or observe that do not fit the model.
        FormatError: the `.pt2` file is no exported program, or the ONNX model not sound.
    """
    budgeted = is_number(memory_budget) and 0 <= memory_budget <= 1
    check_option("The memory_budget", memory_budget, budgeted, "a share between 0 and 1")
    queries = whole_number(attention_block)
    counted = attention_block is None or (queries is not None and queries >= 0)
    check_option("attention_block", attention_block, counted, "a whole number from 0 up, or None")
    check_option("optimise", optimise, isinstance(optimise, bool), "True or False")
    check_option("dump", dump, dump is None or isinstance(dump, str | os.PathLike), "the path of a folder")
    check_option("progress", progress, progress is None or callable(progress), "a function of the stage's name")
    names = None if wrt is None else check_names("wrt", wrt)
    observed, held = check_names("observe", observe), check_names("fixed", fixed)
    summed = check_names("aggregate", aggregate)
    check_option("form", form, form in get_args(ObservedForm), "'total', 'unit' or 'both'")
    masked, put = _asked("masks", masks, Mask), _asked("seeds", seeds, Put)
    reductions = check_reductions(reduce) if isinstance(reduce, str) or reduce else ()
    report = progress or (lambda stage: None)
    rules = resolve_composite(composite)
    if target is None or (isinstance(target, Target) and target.classes is None):
        _check_seeded(put, seed)
    options = Options(
        rules,
        _seed(0 if callable(target) else target, seed, rules.seed),
        function=target if callable(target) else None,
        wrt=names,
        fixed=held,
        observe=observed,
        form=form,
        aggregate=summed,
        masks=masked,
        seeds=put,
        splice=_dictionaries(splice),
        memory_budget=float(memory_budget),
        attention_block=queries,
        optimise=optimise,
    )
    folder = dump or os.environ.get("LRP_COMPILER_DUMP")
    # What a dictionary holds is not among the model's weights, by which graphs of a cache are told apart.
    store = None if folder or splice else cache_of(cache)
    entry: Entry | None = None
    if store is not None:
        report("cache")
        model = load_model(model)
        entry = store.entry(model, args, kwargs, dynamic_shapes, options)
        known = None if entry is None else entry.find()
        if known is not None:
            _say(known[1])
            return _reduced(known[0], reductions)
    report("capture")
    captured = _captured(entry, model, args, kwargs, dynamic_shapes)
    options = _fitted(options, captured)
    with quiet(), sources_forgotten(), nullcontext() if entry is None else entry.recorder:
        compiled = compile_graphs(captured, options, Watch(folder, report))
    captured = compiled.captured
    check_same_output(captured, compiled.forward)
    other = other_at_one(captured, compiled.forward)
    artefact = artefact_of(captured, compiled, options, other)
    said = [*_flags(captured, compiled), *_scale(captured, compiled, options), *_decided(compiled), *_rounded(compiled)]
    said += _larger(artefact) if other else ()
    _say(said)
    if entry is not None:
        entry.put(artefact, captured.program, said)
    return _reduced(artefact, reductions)


def _reduced(artefact: Artefact, reductions: Sequence[str]) -> Explainer:
    """With what is put behind the relevance that was compiled, or was found in a cache."""
    return Explainer(reduced(artefact, reductions) if reductions else artefact)


def _captured(entry: Entry | None, *asked: Any) -> Captured:
    """What `capture` makes of it; for a cache, with an eye on which weights the model's own code reads."""
    if entry is not None:
        with suppress(Exception), entry.recorder.tracing():
            return capture(*asked)
        entry.recorder.failure = "the model cannot be traced while it is watched which weights it reads"
    return capture(*asked)


def _fitted(options: Options, captured: Captured) -> Options:
    """What is asked for, held against what was captured, with the output that is explained.

    Raises:
        InputError: it does not fit.
    """
    target = options.seed.target
    taken = [*options.seed.inputs, *target.inputs]
    clash = [name for name in taken if name in captured.inputs.values()]
    if clash:
        raise InputError(f"The model has an input {clash[0]!r} itself: rename it, or fix target, position and seed.")
    own = {*captured.arguments, *captured.inputs.values()}
    used = {"masks": options.masks, "seeds": options.seeds, "reference": options.composite.differences}
    covered = [name for name, asked in used.items() if asked and name in own]
    if covered:
        raise InputError(
            f"The model has an input {covered[0]!r} itself, so a call could give it no {covered[0]}: rename it."
        )
    strange = [name for name in options.fixed if name not in captured.inputs.values()]
    if strange:
        hint = did_you_mean(strange[0], captured.inputs.values())
        raise InputError(f"fixed names {strange[0]!r}, which is no input of the model{hint}.")
    return replace(options, output=choose_output(captured, target.output))


def _say(warned: Sequence[str]) -> None:
    """Warn, as if the line that calls `compile` did."""
    for text in warned:
        warnings.warn(text, LrpWarning, stacklevel=5)


def _scale(captured: Captured, compiled: Compiled, options: Options) -> Iterator[str]:
    """That what is explained is the logit in front of a probability."""
    scale, target = compiled.question.explained.meta.get(OUTPUT), options.seed.target
    if scale and isinstance(target, Target):
        yield (
            f"The model returns the {scale} ({captured.outputs[options.output]!r}): what is explained is the logit in "
            f"front of it; lrp.Target({target.classes!r}, probability=True) explains the {scale} itself."
        )


def _decided(compiled: Compiled) -> Iterator[str]:
    """The inputs that get nothing, since only a decision depends on them."""
    for name, decision in compiled.decided.items():
        who, them = (
            (f"Elements {decision.elements} of input {name!r} get", "them")
            if decision.elements
            else (f"Input {name!r} gets", "it")
        )
        yield f"{who} no relevance: the explained output depends on {them} only through {decision}."


def _rounded(compiled: Compiled) -> Iterator[str]:
    """That differences are of numbers that were rounded further than the explained one is, and where first."""
    if not compiled.composite.differences:
        return
    forward, explained = compiled.forward, compiled.question.explained
    dtype, reached = explained.meta["val"].dtype, reachable(forward, explained)
    for graph in everywhere(forward):
        for node in graph.graph.nodes:
            given = node.meta.get("val")
            takes = node in reached if graph is forward else assignment(node) is not None
            floats = isinstance(given, Tensor) and given.is_floating_point() and node.op == "call_function"
            if takes and floats and torch.finfo(given.dtype).eps > torch.finfo(dtype).eps:
                narrow, wide = (str(one).removeprefix("torch.") for one in (given.dtype, dtype))
                yield (
                    f"The model calculates in {narrow} at {describe_node(node)}, and what is explained is {wide}: "
                    f"relevance is of differences of numbers rounded to {narrow}, and adds up to no more digits than "
                    f"these have (explainer.audit(…, precision='model') says how many); let it calculate in {wide} "
                    "there."
                )
                return


def _larger(artefact: Artefact) -> Iterator[str]:
    """That sizes of 1 are not taken, at which the model does something else."""
    names = [name for name, (low, _) in artefact.about.ranges.items() if low == SPECIALISED]
    if names:
        yield (
            f"Where {' or '.join(map(repr, names))} is 1 the model does something else than at larger sizes, and only "
            "the latter was captured: the explainer takes sizes of 2 and more there."
        )


def _flags(captured: Captured, compiled: Compiled) -> Iterator[str]:
    """That an input among several looks like a mask, and takes a share."""
    inputs = {node: name for name, node in compiled.question.wanted.items() if node.op == "placeholder"}
    if captured.example is None or len(inputs) < 2:
        return
    placeholders = compiled.forward.graph.find_nodes(op="placeholder")
    for node, tensor in zip(placeholders, captured.example.tensors, strict=False):
        flags = tensor.is_floating_point() and tensor.numel() > 1 and bool(((tensor == 0) | (tensor == 1)).all())
        if node in inputs and flags:
            yield (
                f"Input {inputs[node]!r} holds nothing but 0 and 1 in the example, and takes a share of the relevance; "
                f"if it is a mask and no feature, fixed=[{inputs[node]!r}] leaves all of it to the others."
            )


def resolve_composite(composite: str | Composite, options: Mapping[str, Any] | None = None) -> Composite:
    """The composite of that name, with these options, or the one given.

    Raises:
        CompositeError: there is none of that name, or it takes other options.
    """
    if isinstance(composite, Composite):
        if options:
            raise CompositeError("A Composite holds its options itself: options belong to a composite's name.")
        return composite
    factory = composite_named(composite)
    given = dict(options or {})
    parameters = signature(factory).parameters
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in given]
    unknown = [name for name in given if name not in parameters]
    if missing or unknown:
        if not parameters:
            raise CompositeError(f"The composite {composite!r} has no options: name the composite whose they are.")
        takes = ", ".join(name if p.default is p.empty else f"{name}={p.default}" for name, p in parameters.items())
        hint = "" if missing else did_you_mean(unknown[0], parameters)
        wrong = f"needs {' and '.join(missing)}" if missing else f"has no option {unknown[0]!r}"
        raise CompositeError(
            f"The composite {composite!r} {wrong}{hint}: lrp.composites.{factory.__name__}({takes}), or --option "
            "NAME=VALUE."
        )
    return factory(**given)


def choose_output(captured: Captured, wanted: str | int | None = None) -> int:
    """Position of the output that is explained: the one wanted, else `logits`, else the only or first float tensor.

    Raises:
        InputError: there is no float output, or none of that name or number.
    """
    values = {node.name: node.meta.get("val") for node in captured.program.graph.nodes}
    flat: list[Any] = [values.get(str(name)) for name in captured.program.graph_signature.user_outputs]
    known = list(enumerate(zip(captured.positions, captured.outputs, strict=True)))
    floats = [index for index, (position, _) in known if flat[position].is_floating_point()]
    if not floats:
        complex_ones = any(flat[position].is_complex() for position in captured.positions)
        raise InputError(
            "The model returns complex numbers alone: explain a function of them, as in target=lambda z: z.abs()[:, 0]."
            if complex_ones
            else "The model returns no float tensor: there is nothing to explain."
        )
    if wanted is None:
        return next((index for index in floats if captured.outputs[index] == "logits"), floats[0])
    chosen = [index for index, at in known if index in floats and wanted in at]
    if not chosen:
        names = ", ".join(f"{captured.outputs[index]!r} ({captured.positions[index]})" for index in floats)
        others = [captured.outputs[index] for index in floats]
        hint = did_you_mean(wanted, others) if isinstance(wanted, str) else ""
        raise InputError(f"There is no float output {wanted!r}{hint}: the model returns {names} as such.")
    return chosen[0]


def _asked(name: str, given: Any, kind: type[Any]) -> tuple[Any, ...]:
    """Patterns, or objects of this kind, one or several, as a tuple of the latter."""
    several = [given] if isinstance(given, str | kind) else given
    fits = isinstance(several, list | tuple) and all(isinstance(one, str | kind) for one in several)
    check_option(name, given, fits, f"a pattern or an lrp.{kind.__name__}, or a list of them")
    return tuple(kind(one) if isinstance(one, str) else one for one in several)


def _dictionaries(given: Any) -> dict[str, Any]:
    """What is spliced in, by path."""
    fits = given is None or (isinstance(given, Mapping) and all(isinstance(path, str) for path in given))
    check_option("splice", given, fits, "a dict from paths of modules to dictionaries")
    for path, dictionary in (given or {}).items():
        able = all(callable(getattr(dictionary, name, None)) for name in ("encode", "decode"))
        check_option(f"splice[{path!r}]", dictionary, able, "an object with methods encode and decode")
        if getattr(dictionary, "training", False):
            raise InputError(f"The dictionary of splice={path!r} is in training mode: call its eval() first.")
    return dict(given or {})


def _check_seeded(seeds: Sequence[Put], seed: str | None) -> None:
    """Refuse target=None where nothing else says what is explained."""
    if seed is not None:
        raise InputError(f"seed={seed!r} says what is put on the target, and target=None that nothing is: drop one.")
    if not seeds:
        raise InputError("With target=None relevance starts at values of the network: name them by seeds=.")


SEEDS = ("value", "one", "tensor")


def _seed(target: Any, asked: str | None, usual: str) -> Seed:
    seed = usual if asked is None else asked
    if not isinstance(seed, str) or seed not in SEEDS:
        hint = did_you_mean(seed, SEEDS) if isinstance(seed, str) else ""
        tensor = "" if isinstance(seed, str | int | None) else " (a tensor itself is given in the call)"
        raise InputError(f"Unknown seed {shortened(seed)}{hint}: choose 'value', 'one' or 'tensor'{tensor}.")
    if isinstance(target, Answer) and asked is not None:
        raise InputError(f"seed={seed!r} does not go with an Answer: a call says by weights= what is put where.")
    return Seed(target, seed)  # type: ignore[arg-type]
