"""`compile`: a model in, its explainer out. Reads like the diagram in ARCHITECTURE.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lrp_compiler.capture import Capture, Model, capture
from lrp_compiler.errors import CompositeError, InputError
from lrp_compiler.explainer import Explainer
from lrp_compiler.passes import Dump, Seed, compile_graphs
from lrp_compiler.quiet import quiet
from lrp_compiler.rules.composite import COMPOSITES, Composite


def compile(
    model: Model,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    composite: str | Composite = "epsilon",
    target: str | int = "argmax",
    seed: str = "value",
    wrt: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
    dump: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Explainer:
    """Compile a model into its explainer: one graph that predicts and says how much every input element contributed.

    The model is not modified. The explainer holds a reference to its weights as they are now (batch norms are folded
    into copies): compile again after training on.

    Args:
        model: an nn.Module in eval mode, an ExportedProgram, or the path of a `.pt2` file.
        args: example inputs of a module; cloned, never kept. A size of 1 cannot be made dynamic: use 2.
        kwargs: example inputs by name.
        composite: which rule where: a name ("epsilon", "epsilon-plus", "attnlrp") or a `Composite`.
        target: what is explained: "argmax" (each row's largest logit), a class number, or "index" (an int64 input
            `target` of shape `[batch]` at run time).
        seed: relevance put on it: "value" (the logit itself), "one", or "tensor" (a run-time input `seed` of the
            shape of the explained logits, `[batch, classes]`).
        wrt: names of the inputs to explain; default: all that carry relevance.
        dynamic_shapes: as torch.export takes it.
        dump: folder into which the graph is written after every pass (also: environment `LRP_COMPILER_DUMP`).
        progress: called with the name of each stage when it starts.

    Raises:
        CaptureError: torch.export cannot trace the model, or it is in training mode.
        UnsupportedOpError: ops without a rule: all of them at once.
        CompositeError: unknown composite, or one that gives an op a rule that does not fit.
        InputError: example inputs, target, seed or wrt that do not fit the model.
        FormatError: the `.pt2` file is no exported program.
    """
    report = progress or (lambda stage: None)
    rules = resolve_composite(composite)
    report("capture")
    captured = capture(model, args, kwargs, dynamic_shapes)
    start = _seed(target, seed)
    clash = [name for name in start.inputs if name in captured.inputs.values()]
    if clash:
        raise InputError(f"The model has an input {clash[0]!r} itself: rename it, or fix target and seed.")
    output = choose_output(captured)
    with quiet():
        compiled = compile_graphs(
            captured.program,
            rules,
            start,
            output=output,
            output_name=captured.outputs[output],
            wrt=None if wrt is None else _placeholders(captured, wrt),
            dump=Dump(dump or os.environ.get("LRP_COMPILER_DUMP")),
            progress=report,
        )
    return Explainer.of(captured, compiled, rules, start)


def resolve_composite(composite: str | Composite) -> Composite:
    """The composite of that name, or the one given.

    Raises:
        CompositeError: there is none of that name.
    """
    if isinstance(composite, Composite):
        return composite
    if composite not in COMPOSITES:
        raise CompositeError(f"Unknown composite {composite!r}: choose one of {', '.join(sorted(COMPOSITES))}.")
    return COMPOSITES[composite]()


def choose_output(captured: Capture) -> int:
    """Position of the output that is explained: `logits` if there is one, else the only or first float tensor.

    Raises:
        InputError: there is no float output.
    """
    values = {node.name: node.meta.get("val") for node in captured.program.graph.nodes}
    floats = []
    for index, name in enumerate(captured.program.graph_signature.user_outputs):
        value = values.get(str(name))
        if isinstance(value, Tensor) and value.is_floating_point():
            floats.append(index)
    if not floats:
        raise InputError("The model returns no float tensor: there is nothing to explain.")
    return next((index for index in floats if captured.outputs[index] == "logits"), floats[0])


def _seed(target: str | int, seed: str) -> Seed:
    if isinstance(target, bool) or not (isinstance(target, int) or target in ("argmax", "index")):
        raise InputError(f"Unknown target {target!r}: choose 'argmax', 'index' or a class number.")
    if seed not in ("value", "one", "tensor"):
        raise InputError(f"Unknown seed {seed!r}: choose 'value', 'one' or 'tensor'.")
    return Seed(target, seed)  # type: ignore[arg-type]


def _placeholders(captured: Capture, wrt: Sequence[str]) -> list[str]:
    by_public_name = {public: name for name, public in captured.inputs.items()}
    unknown = [name for name in wrt if name not in by_public_name]
    if unknown:
        raise InputError(f"wrt names {unknown[0]!r}, but the inputs are {', '.join(by_public_name)}.")
    return [by_public_name[name] for name in wrt]
