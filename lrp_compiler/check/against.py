"""Does the file explain the model that it claims to explain: the model's hash, the books and float64. Needs torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lrp_compiler.artefact.provenance import source_hash
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.specs import SUM
from lrp_compiler.capture import capture
from lrp_compiler.compiler import compile as compile_explainer
from lrp_compiler.explainer import Explainer
from lrp_compiler.export.onnx_weights import halves
from lrp_compiler.formats import reader_of
from lrp_compiler.passes.forward import explained_in
from lrp_compiler.passes.relevance import Mask, Put
from lrp_compiler.rules.composite import Composite

from .in_torch import exact_results, tensors_of
from .runs import call_of, run_flat
from .verification import Check, Result

SLACK = 3.0
"""A file's float32 may be this many times as far from float64 as torch's own."""
FLOOR = 1e-6
"""Below this share of the largest value float32 is as good as it gets."""
BEHIND = ("conservation", "conditioning", "parity")
"""What is asked once the model is known to be the one."""


def compared(
    explainer: Any, feeds: Mapping[str, np.ndarray], first: Result, against: str | os.PathLike[str]
) -> tuple[list[Check], Explainer | None]:
    """The file beside its model, compiled anew; and what that gave, None where it is another model.

    Args:
        explainer: of the file.
        feeds: what it was run on.
        first: what came out.
        against: the model's file.
    """
    about: Metadata = explainer.about
    model = reader_of(against)(against)
    program = capture(model).program if isinstance(model, torch.nn.Module) else model
    same = source_hash(program) == about.source
    source = Check("source", same, f"{os.fspath(against)} is {'' if same else 'not '}what the file was compiled from")
    if not same:
        return [
            source,
            *(Check(name, None, "the model is another") for name in BEHIND),
        ], None
    if about.spliced:
        lacking = f"the file holds a dictionary at {about.spliced[0]}, and the model does not"
        return [source, *(Check(name, None, lacking) for name in BEHIND)], None
    try:
        reference = compile_explainer(
            model,
            composite=Composite.from_dict(about.composite),
            target=explained_in(about.explains),
            seed=None if about.picks is None or about.explains_answer else about.seed,
            wrt=list(dict.fromkeys(entry.input for entry in about.relevance if entry.form == "total")),
            fixed=about.fixed,
            observe=[entry.input for entry in about.relevance if entry.form == "unit"],
            form="unit",
            masks=_masks(about),
            aggregate=about.aggregate,
            reduce=about.reduce,
            seeds=[Put(each.path, each.form) for each in about.latents if each.kind == "seed"],  # type: ignore[arg-type]
        )
    except (LrpError, LookupError) as error:
        why = f"needs the model compiled anew by the file's composite, which cannot be done here: {error}"
        return [source, *(Check(name, None, why) for name in BEHIND)], None
    if about.weights == "float16":
        _halve(reference)
    return [source, *_books(reference, feeds, first, about), _parity(reference, feeds, first, about)], reference


def _masks(about: Metadata) -> list[Mask]:
    """The masks that a file takes, as `compile` is asked for them."""
    alone = {each.path for each in about.latents if each.kind == "past"}
    masks = [each for each in about.latents if each.kind == "mask"]
    return [Mask(each.path, "all" if each.dim is None else each.dim, each.path in alone) for each in masks]


def _halve(reference: Explainer) -> None:
    """Round the weights as a file with float16 weights has them."""
    for buffer in {*reference.module.buffers(), *reference.forward.buffers()}:
        if buffer.dtype is torch.float32 and buffer.numel() and halves(buffer.numel(), float(buffer.abs().max())):
            buffer.copy_(buffer.half())


def _books(reference: Explainer, feeds: Mapping[str, np.ndarray], first: Result, about: Metadata) -> list[Check]:
    """The books of the same run; what the file gave each input is what they say it got, and how much cancels in it."""
    try:
        books = reference.audit(**call_of(reference.about, tensors_of(reference, feeds)))
    except InputError as refusal:
        return [Check(name, None, str(refusal)) for name in ("conservation", "conditioning")]
    names = [spec.name for spec in about.inputs if {spec.name, f"{SUM}.{spec.name}"} & first[1].keys()]
    error = abs(books.error) / (books.magnitude or 1)
    given = first[1]
    sums = {name: given[f"{SUM}.{name}" if f"{SUM}.{name}" in given else name] for name in names}
    off = max((abs(float(sums[name].sum(dtype=np.float64)) - books.inputs[name]) for name in names), default=0.0)
    off /= books.magnitude or 1
    text = f"the seed {books.seed:.6g} is accounted for to {error:.0e} of Σ|R|; the file's sums are off by {off:.0e}"
    found = f"Σ|R| is at most {books.conditioning:.3g} times what is explained"
    return [
        Check("conservation", max(error, off) <= about.tolerance, text),
        Check("conditioning", True, " ".join(books.remarks) or found, warns=bool(books.remarks)),
    ]


def _parity(reference: Explainer, feeds: Mapping[str, np.ndarray], first: Result, about: Metadata) -> Check:
    """How far the file is from float64, beside torch's own float32."""
    exact = exact_results(reference, feeds)
    own = len(about.outputs)
    outputs, relevance = run_flat(reference, feeds)
    torch_run = [*outputs, *relevance.values()]
    found = []
    for index, (mine, theirs, true) in enumerate(zip([*first[0], *first[1].values()], torch_run, exact, strict=True)):
        if mine.dtype.kind != "i" and (index >= own or index == about.explained):
            scale = np.abs(true).max() or 1
            found.append((float(np.abs(mine - true).max() / scale), float(np.abs(theirs - true).max() / scale)))
    passed = all(mine <= SLACK * max(theirs, FLOOR) for mine, theirs in found)
    worst = max(found, key=lambda pair: pair[0] / max(pair[1], FLOOR))
    note = ", both with weights rounded to float16" if about.weights == "float16" else ""
    text = f"the file is {worst[0]:.0e} from float64, torch in float32 {worst[1]:.0e}{note}"
    return Check("parity", passed, text)
