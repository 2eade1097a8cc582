"""Is this file sound, and does it explain the model that it claims to explain?

    verify("m.lrp.onnx", against="model.pt2")

Every check says what was found; none is skipped in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch

from lrp_compiler.artefact.provenance import source_hash
from lrp_compiler.artefact.storage import read_program
from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import FormatError, InputError, LrpError
from lrp_compiler.base.metadata import OPSETS, Metadata
from lrp_compiler.base.onnx_session import format_errors, open_session
from lrp_compiler.base.seal import PARTS, Seal, check_pair, check_seal, read_seal, without_seal
from lrp_compiler.base.tables import plain_table
from lrp_compiler.capture import capture
from lrp_compiler.compiler import compile as compile_explainer
from lrp_compiler.explainer import Explainer, load
from lrp_compiler.export.onnx_notes import PREFIX
from lrp_compiler.export.onnx_weights import halves
from lrp_compiler.formats import reader_of, runtime_of
from lrp_compiler.passes.forward import explained_in
from lrp_compiler.passes.relevance import Mask, Put
from lrp_compiler.rules.composite import Composite
from lrp_compiler.runtime import OnnxExplainer

from .random_inputs import random_inputs, table_sizes
from .runs import Result, call_of, exact_results, fitting, run_flat, tensors_of
from .runtimes import RUNTIMES, Runtime

SLACK = 3.0
"""A file's float32 may be this many times as far from float64 as torch's own."""
FLOOR = 1e-6
"""Below this share of the largest value float32 is as good as it gets."""
ROOM = 0.05
"""Share of Σ|R| by which another runtime may differ: it adds up in another order, and may choose another maximum."""


@dataclass(frozen=True)
class Check:
    """One question, and its answer: `passed` is None where it could not be asked."""

    name: str
    passed: bool | None
    found: str
    warns: bool = False
    """Whether it passed, but should be looked at."""


@dataclass
class Verification:
    """All checks of a file."""

    path: str
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The checks as plain data."""
        return {"path": self.path, "passed": self.passed, "checks": [vars(check) for check in self.checks]}

    def table(self) -> Any:
        """The checks as a rich table."""
        from rich.text import Text

        table = plain_table(title=self.path, title_justify="left")
        for column in ("check", "", "found"):
            table.add_column(column, overflow="fold")
        words = {True: Text("passed", "green"), False: Text("FAILED", "red"), None: "not asked"}
        for check in self.checks:
            table.add_row(check.name, Text("look", "yellow") if check.warns else words[check.passed], check.found)
        return table


@boundary("verify the explainer")
def verify(
    path: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    other: str | os.PathLike[str] | None = None,
    runtime: str | None = None,
) -> Verification:
    """Check an explainer's file; failures are in the result, not raised.

    Args:
        path: an `.onnx` or `.pt2` explainer.
        against: the model's `.pt2` or `.onnx` file: compiled anew by the file's own composite, it gives the books and
            float64.
        inputs: what to run on, by name (`target`, `position` and `seed` too); what is not given is drawn at random, in
            the example's sizes.
        seed: of the random inputs.
        other: where `path` is one part of a split explainer: the other part.
        runtime: somebody else's that the file shall run in, one of `RUNTIMES`: what it makes of these inputs is
            compared with float64 (of an ONNX file without `against`: with onnxruntime's CPU).

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a file cannot be read at all.
        InputError: given inputs do not fit, or there is no such runtime.
        LrpError: the runtime is not installed, or does not run the file.
    """
    elsewhere = None if runtime is None else _elsewhere(runtime, path)
    result = Verification(os.fspath(path))
    result.checks.append(_content(path))
    if result.checks[0].passed is False and read_seal(path) is not None:
        return result  # what is damaged is not run
    if (read_seal(path) or Seal()).part:
        result.checks += _part(path, other)
        return result
    explainer: OnnxExplainer | Explainer
    if runtime_of(path) == "onnxruntime":
        explainer = OnnxExplainer(path, check=False)
        graph = onnx.load(path, load_external_data=False)
        result.checks += [_checker(path), _contract(graph), _notes(graph), _metadata(explainer.about)]
        limits = {**table_sizes(graph), **explainer.about.rows}
    else:
        explainer = load(path, check=False)
        _ = explainer.artefact.graphs  # all of the file is read, not only what runs
        result.checks += [_metadata(explainer.about)]
        limits = dict(explainer.about.rows)
    drawn = random_inputs(explainer.about, limits, np.random.default_rng(seed))
    feeds = fitting(explainer.about, {**drawn, **(inputs or {})})
    first = run_flat(explainer, feeds)
    result.checks += _sane(explainer, feeds, first)
    found, reference = _against(explainer, feeds, first, against)
    result.checks += found
    if runtime is not None and elsewhere is not None:
        results = elsewhere.opens(os.fspath(path), explainer.about)(feeds)
        result.checks.append(_same_there(runtime, results, reference or explainer, feeds, first))
    return result


def _elsewhere(name: str, path: str | os.PathLike[str]) -> Runtime:
    """The runtime of this name, if it takes such a file."""
    if name not in RUNTIMES:
        raise InputError(f"There is no runtime {name!r}: choose {', '.join(RUNTIMES)}.")
    if not os.fspath(path).endswith(RUNTIMES[name].takes):
        raise InputError(f"{name} takes files that end in {RUNTIMES[name].takes}, and {os.fspath(path)!r} does not.")
    return RUNTIMES[name]


def _same_there(
    runtime: str,
    results: Mapping[str, np.ndarray],
    reference: OnnxExplainer | Explainer,
    feeds: Mapping[str, np.ndarray],
    first: Result,
) -> Check:
    """How far another runtime's relevance and explained output are from the truth, as a share of all of it."""
    about, at = reference.about, reference.about.explained
    known = [spec.name for spec in (*about.outputs[at : at + 1], *(entry.tensor for entry in about.relevance))]
    lacking = [name for name in known if name not in results]
    if lacking:
        return Check("runtime", False, f"{runtime} gives no {lacking[0]}")
    if isinstance(reference, OnnxExplainer):
        if runtime == "onnxruntime":
            return Check("runtime", None, "needs the model: --against MODEL.pt2")
        words, true = "onnxruntime", [*first[0], *first[1].values()]
    else:
        words, true = "float64", exact_results(reference, feeds)
    named = dict(zip((spec.name for spec in about.returns), true, strict=True))
    off = {name: _share(results[name], named[name]) for name in known}
    worst = max(off, key=lambda name: off[name])
    return Check("runtime", off[worst] <= ROOM, f"{worst} of {runtime} is {off[worst]:.0e} from {words}'s")


def _share(found: np.ndarray, true: np.ndarray) -> float:
    """Σ|difference| / Σ|true|; infinite where shapes differ, or only one of the two is finite."""
    if found.shape != true.shape or not np.array_equal(np.isfinite(found), np.isfinite(true)):
        return np.inf
    known = np.isfinite(true)
    found, true = found[known].astype(np.float64), true[known].astype(np.float64)
    return float(np.abs(found - true).sum() / (np.abs(true).sum() or 1))


def _content(path: str | os.PathLike[str]) -> Check:
    """That every byte is the one that was written, of the files beside it as well."""
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {name}.")
    try:
        sealed = check_seal(path, name)
    except FormatError as damage:
        return Check("content", False, str(damage))
    if sealed is None:
        return Check("content", False, str(without_seal(name)))
    beside = f", and so are {', '.join(sealed.data)}" if sealed.data else ""
    return Check("content", True, f"it is what was written{beside}")


def _part(path: str | os.PathLike[str], other: str | os.PathLike[str] | None) -> list[Check]:
    """Of one of the two parts of an explainer: that it can be opened, and that the other one belongs to it."""
    checks = []
    if runtime_of(path) == "onnxruntime":
        with format_errors(os.fspath(path)):
            open_session(path, os.fspath(path), None, None)
        checks.append(_checker(path))
    else:
        read_program(path, [])
    if other is None:
        return [*checks, Check("pair", None, "needs the other part: --pair FILE")]
    known = read_seal(path)
    parts = (path, other) if known is not None and known.part == PARTS[0] else (other, path)
    try:
        check_pair(*parts)
    except FormatError as stranger:
        return [*checks, Check("pair", False, str(stranger))]
    return [*checks, Check("pair", True, f"{os.fspath(other)} is the other part of the same explainer")]


def _checker(path: str | os.PathLike[str]) -> Check:
    try:
        onnx.checker.check_model(os.fspath(path), full_check=True)
    except Exception as error:
        return Check("checker and shape inference", False, str(error).strip().splitlines()[0])
    return Check("checker and shape inference", True, "onnx finds nothing wrong")


def _contract(model: onnx.ModelProto) -> Check:
    """What the README promises of the graph."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    wrong = [f"the domain {domain!r}" for domain in opsets if domain]
    wrong += [f"the function {function.name}" for function in model.functions]
    wrong += [f"opset {opsets.get('')}"] if opsets.get("") not in OPSETS else []
    unnamed = [
        value.name
        for value in (*model.graph.input, *model.graph.output)
        for dim in value.type.tensor_type.shape.dim
        if not dim.HasField("dim_value") and not dim.dim_param.isidentifier()
    ]
    wrong += [f"a size without a name in {unnamed[0]}"] if unnamed else []
    texts = [entry.value for node in model.graph.node for entry in node.metadata_props]
    texts += [entry.value for entry in model.metadata_props] + [node.doc_string for node in model.graph.node]
    wrong += ["a path of the machine that wrote it"] if any(re.search(r"(^|[\s\"'])/\w+/\w", t) for t in texts) else []
    if wrong:
        return Check("contract", False, "It has " + ", ".join(wrong))
    return Check("contract", True, f"{len(model.graph.node)} nodes of opset {opsets['']}, IR {model.ir_version}")


def _notes(model: onnx.ModelProto) -> Check:
    """Every node says what it is for."""
    phases = [
        {entry.key: entry.value for entry in node.metadata_props}.get(PREFIX + "phase") for node in model.graph.node
    ]
    counts = {phase: phases.count(phase) for phase in ("forward", "relevance")}
    # Casts of weights that are stored in half the bytes are for both.
    silent = [
        node for node, phase in zip(model.graph.node, phases, strict=True) if not phase and node.op_type != "Cast"
    ]
    text = f"{counts['forward']} nodes predict, {counts['relevance']} explain, {len(silent)} do not say which"
    return Check("provenance", not silent and all(counts.values()), text)


def _metadata(about: Metadata) -> Check:
    missing = [key for key in ("source", "rules", "plan") if not getattr(about, key)]
    if missing:
        return Check("metadata", False, f"{missing[0]!r} is missing: the file is of an older release")
    rules = ", ".join(dict.fromkeys(entry["rule"] for entry in about.rules))
    text = f"composite {about.name}, target {about.target}, rules {rules}"
    return Check("metadata", True, text)


def _sane(explainer: OnnxExplainer | Explainer, feeds: Mapping[str, np.ndarray], first: Result) -> list[Check]:
    arrays = [*first[0], *first[1].values()]
    broken = sum(int((~np.isfinite(array)).sum()) for array in arrays if array.dtype.kind == "f")
    shapes = ", ".join(f"{name}{list(array.shape)}" for name, array in feeds.items())
    checks = [Check("runs", broken == 0, f"on {shapes}" + (f": {broken} values are not finite" if broken else ""))]
    again = run_flat(explainer, feeds)
    equal = all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, [*again[0], *again[1].values()], strict=True)
    )
    checks.append(Check("repeats", equal, "a second run gives the same" if equal else "a second run differs"))
    axes = _batch_axes(explainer.about)
    if axes is None:
        return [*checks, Check("rows", None, "the batch is fixed, or relevance has no batch")]
    rows = next(feeds[name].shape[axis] for name, axis in axes.items() if name in feeds)
    off = 0.0
    names = {entry.key: entry.tensor.name for entry in explainer.about.relevance}
    for row in range(rows):
        one = {name: np.take(array, [row], axes[name]) if name in axes else array for name, array in feeds.items()}
        for name, array in run_flat(explainer, one)[1].items():
            whole = np.take(first[1][name], [row], axes[names[name]])
            off = max(off, float(np.abs(array - whole).max() / (np.abs(whole).max() or 1)))
    checks.append(Check("rows", off < explainer.about.tolerance, f"alone, a row differs by {off:.0e}"))
    return checks


def _batch_axes(about: Metadata) -> dict[str, int] | None:
    specs = [*about.takes, *(entry.tensor for entry in about.relevance)]
    axes = {spec.name: spec.shape.index("batch") for spec in specs if "batch" in spec.shape}
    cut = any(spec.name in axes for spec in about.inputs)
    whole = all(entry.tensor.name in axes for entry in about.relevance)
    return axes if cut and whole and "batch" in about.sizes else None


def _against(
    explainer: OnnxExplainer | Explainer,
    feeds: Mapping[str, np.ndarray],
    first: Result,
    against: str | os.PathLike[str] | None,
) -> tuple[list[Check], Explainer | None]:
    asked = ("source", "conservation", "conditioning", "parity")
    about = explainer.about
    if against is None:
        return [Check(name, None, "needs the model: --against MODEL.pt2") for name in asked], None
    model = reader_of(against)(against)
    program = capture(model).program if isinstance(model, torch.nn.Module) else model
    same = source_hash(program) == about.source
    source = Check("source", same, f"{os.fspath(against)} is {'' if same else 'not '}what the file was compiled from")
    if not same:
        return [source, *(Check(name, None, "the model is another") for name in asked[1:])], None
    if about.spliced:
        lacking = f"the file holds a dictionary at {about.spliced[0]}, and the model does not"
        return [source, *(Check(name, None, lacking) for name in asked[1:])], None
    try:
        reference = compile_explainer(
            model,
            composite=Composite.from_dict(about.composite),
            target=explained_in(about.explains),
            seed=None if about.picks is None or about.explains_answer else about.seed,
            wrt=[entry.input for entry in about.relevance if entry.form == "total"],
            fixed=about.fixed,
            observe=[entry.input for entry in about.relevance if entry.form == "unit"],
            form="unit",
            masks=_masks(about),
            seeds=[Put(each.path, each.form) for each in about.latents if each.kind == "seed"],  # type: ignore[arg-type]
        )
    except (LrpError, LookupError) as error:
        return [source, *(Check(name, None, str(error)) for name in asked[1:])], None
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
    names = [spec.name for spec in about.inputs if spec.name in first[1]]
    error = abs(books.error) / (books.magnitude or 1)
    off = max((abs(float(first[1][n].sum(dtype=np.float64)) - books.inputs[n]) for n in names), default=0.0)
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
        if index >= own or index == about.explained:
            scale = np.abs(true).max() or 1
            found.append((float(np.abs(mine - true).max() / scale), float(np.abs(theirs - true).max() / scale)))
    passed = all(mine <= SLACK * max(theirs, FLOOR) for mine, theirs in found)
    worst = max(found, key=lambda pair: pair[0] / max(pair[1], FLOOR))
    note = ", both with weights rounded to float16" if about.weights == "float16" else ""
    text = f"the file is {worst[0]:.0e} from float64, torch in float32 {worst[1]:.0e}{note}"
    return Check("parity", passed, text)
