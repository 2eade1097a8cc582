"""Is this file sound, and does it explain the model that it claims to explain?

    verify("m.lrp.onnx", against="model.pt2")

Every check says what was found; none is skipped in silence. Of an ONNX file the seal, the session, the metadata and
what it calculates are checked without torch and onnx; what needs these says so where they are not installed.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.installed import whole_command
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.onnx_session import format_errors, open_session
from lrp_compiler.base.seal import PARTS, Seal, check_pair, check_seal, read_seal, without_seal
from lrp_compiler.formats import runtime_of
from lrp_compiler.runtime import OnnxExplainer

from .own_books import own_books
from .random_inputs import random_inputs
from .runs import fitting, run_flat
from .runtimes import elsewhere, same_there
from .sane import sane
from .verification import Check, Verification

__all__ = ["Check", "Verification", "verify"]


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
    other_runtime = None if runtime is None else elsewhere(runtime, path)
    result = Verification(os.fspath(path))
    result.checks.append(_content(path))
    if result.checks[0].passed is False and read_seal(path) is not None:
        return result  # what is damaged is not run
    if (read_seal(path) or Seal()).part:
        result.checks += _part(path, other)
        return result
    if _is_machine_code(path):
        said = "is not run here, because it could do anything: verify the explainer it is of, with --runtime aoti"
        result.checks.append(Check("machine code", None, said))
        return result
    explainer: Any
    if runtime_of(path) == "onnxruntime":
        explainer = OnnxExplainer(path, check=False)
        checks, tables = _graph(path)
        result.checks += [*checks, _metadata(explainer.about)]
        limits = {**tables, **explainer.about.rows}
    else:
        from lrp_compiler.explainer import load

        explainer = load(path, check=False)
        _ = explainer.artefact.graphs  # all of the file is read, not only what runs
        result.checks += [_metadata(explainer.about)]
        limits = dict(explainer.about.rows)
    drawn = random_inputs(explainer.about, limits, np.random.default_rng(seed))
    feeds = fitting(explainer, {**drawn, **(inputs or {})})
    first = run_flat(explainer, feeds)
    result.checks += [*sane(explainer, feeds, first), *own_books(explainer.about, feeds, first)]
    reference = None
    if against is None:
        result.checks += [Check(name, None, "needs the model: --against MODEL.pt2") for name in AGAINST]
    else:
        from .against import compared

        found, reference = compared(explainer, feeds, first, against)
        result.checks += found
    if runtime is not None and other_runtime is not None:
        results = other_runtime.opens(os.fspath(path), explainer.about)(feeds)
        result.checks.append(same_there(runtime, results, reference or explainer, feeds, first))
    return result


def _is_machine_code(path: str | os.PathLike[str]) -> bool:
    """Whether it is a package of AOTInductor."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("data/aotinductor/" in name for name in archive.namelist())


AGAINST = ("source", "conservation", "conditioning", "parity")
"""Checks that need the model."""
GRAPH = ("checker and shape inference", "contract", "provenance")
"""Checks that need onnx."""


def _graph(path: str | os.PathLike[str]) -> tuple[list[Check], dict[str, int]]:
    """What onnx reads in the file, and of inputs the rows of the tables that they look up."""
    try:
        from .onnx_graph import graph_checks
    except ImportError:
        return [Check(name, None, f"needs onnx: {whole_command()}") for name in GRAPH], {}
    return graph_checks(path)


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
        checks += _graph(path)[0][:1]
    else:
        from lrp_compiler.artefact.storage import read_program

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


def _metadata(about: Metadata) -> Check:
    missing = [key for key in ("source", "rules", "plan") if not getattr(about, key)]
    if missing:
        return Check("metadata", False, f"{missing[0]!r} is missing: the file is of an older release")
    rules = ", ".join(dict.fromkeys(entry["rule"] for entry in about.rules))
    text = f"composite {about.named_why}, target {about.target}, rules {rules}"
    return Check("metadata", True, text)
