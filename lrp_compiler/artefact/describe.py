"""What the files of an explainer say about it, worked out from what was compiled."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.base.metadata import FUNCTION, Metadata
from lrp_compiler.base.names import distinct
from lrp_compiler.base.specs import LatentSpec
from lrp_compiler.base.version import __version__
from lrp_compiler.passes import Compiled, Options
from lrp_compiler.passes.forward import KIND, OUTPUT, Answer, Captured, Other
from lrp_compiler.passes.graph import outputs
from lrp_compiler.torch_private import expression, pytree

from .artefact import Artefact
from .observing import relevance_specs
from .provenance import example_sizes, rules_used, size_ranges, source_hash, table_rows
from .shapes import in_names, tensor_specs


def artefact_of(
    captured: Captured, compiled: Compiled, options: Options, other_at_one: Collection[Any] = ()
) -> Artefact:
    """What was compiled, with what is to be said about it.

    Args:
        captured: the model.
        compiled: its graphs.
        options: what was asked for.
        other_at_one: symbols of the open sizes of which the graph is wrong at 1.
    """
    placeholders = compiled.joint.graph.find_nodes(op="placeholder")
    flat = outputs(compiled.joint)
    names = list(captured.inputs.values())
    own = len(captured.outputs)
    # What follows the model's own inputs was added for the target and the seed.
    extra = [str(node.meta["seed"]) for node in placeholders[len(names) :]]
    takes = distinct([*names, *extra])
    specs = tensor_specs(placeholders, takes, _said_of_sizes(captured, placeholders))
    symbols, target = specs.symbols, compiled.seed.target
    # Of an answer the tokens are its classes.
    explained, latents = compiled.question.explained, compiled.question.latents
    scored = flat[options.output] if isinstance(target, Answer) else explained
    classes = scored.meta["val"].shape[-1]
    relevance = relevance_specs(compiled.question, flat[own:], symbols, takes)
    inside = [
        LatentSpec(name, latent.kind, latent.path, latent.node, latent.dim, latent.form)
        for name, latent in zip(takes[len(takes) - len(latents) :], latents, strict=True)
    ]
    given = distinct(captured.outputs, [*takes, *(entry.tensor.name for entry in relevance)])
    about = Metadata(
        composite=compiled.composite.to_dict(),
        target=FUNCTION if options.function is not None else target.label,
        explains=target.to_dict(),
        seed=compiled.seed.mode,
        classes=classes if isinstance(classes, int) else None,
        inputs=tuple(specs.tensors[: len(names)]),
        seed_inputs=tuple(specs.tensors[len(names) :]),
        latents=tuple(inside),
        outputs=tuple(tensor_specs(flat[:own], given, symbols).tensors),
        others=tuple(_other(position, other, symbols) for position, other in sorted(captured.others.items())),
        relevance=relevance,
        arguments=tuple(captured.arguments),
        constants=captured.constants,
        explained=options.output,
        fixed=options.fixed,
        spliced=tuple(options.splice),
        aggregate=options.aggregate,
        scale=explained.meta.get(OUTPUT) or "logit",
        kind=explained.meta.get(KIND) or "logit",
        plan=compiled.plan.to_dict(),
        optimise=options.optimise,
        output_structure=_dump_structure(captured.program.call_spec.out_spec),
        source=source_hash(captured.program),
        rules=tuple(rules_used(compiled.forward)),
        sizes=example_sizes(symbols, placeholders),
        ranges=size_ranges(symbols, captured.program.range_constraints, other_at_one),
        rows=table_rows(compiled.forward, takes[: len(names)]),
        versions={
            "lrp_compiler": __version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
        },
    )
    return Artefact.of(compiled.joint, compiled.forward, about, captured.program.call_spec.out_spec)


def _other(position: int, other: Other, symbols: Mapping[Any, str]) -> dict[str, Any]:
    """What is to be said of an output that is no tensor: its value, or how it follows from the open sizes."""
    known = {"at": position, "name": other.name}
    if other.value is None or isinstance(other.value, bool | int | float | str):
        return {**known, "value": other.value}
    text = in_names(other.value, symbols)
    if text is None:
        raise CaptureError(
            f"The model returns {other.name!r}, a number that is read off a tensor (.item()) or no whole number of "
            "sizes: return a tensor instead, or leave it out."
        )
    return {**known, "size": text}


def _dump_structure(spec: Any) -> str | None:
    try:
        return pytree.treespec_dumps(spec)
    except Exception:
        return None


def _said_of_sizes(captured: Captured, placeholders: list[fx.Node]) -> dict[Any, str]:
    """Open size → what the model's file calls it. The first of an input stays the batch, which runtimes cut by."""
    found: dict[Any, str] = {}
    for node, name in zip(placeholders, captured.inputs.values(), strict=False):
        for dim, said in captured.sizes.get(name, {}).items():
            size = node.meta["val"].shape[dim]
            if dim and isinstance(size, torch.SymInt) and expression(size).is_Symbol and said not in found.values():
                found.setdefault(expression(size), said)
    return found
