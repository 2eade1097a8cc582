"""ONNX's own tests of its operators, through `from_onnx`: the stated outputs, and torch.export.

The cases are those of the package `onnx` (`onnx.backend.test`): of every operator at every opset, and small models of
PyTorch. Counted are those that return floats, by three questions: is a module made, are its outputs the stated ones,
does torch.export take it. What an input decides about shapes and courses (where a Slice starts, how often a Loop runs)
is a constant in real files, and cannot be left open by any export: a case whose inputs of rank 0 and 1 do so is asked
again with these given as constants, and counted apart. Outputs are compared within the case's own tolerances, and
where those are finer than one step of the output's dtype, within one step.

The table is results/onnx_backend.md. Exit status 1: fewer pass than the share asked for.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.sound import RESULTS
from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.quiet import quiet
from lrp_compiler.onnx_in.tensors import BITS, as_tensor, dtype_of, tensor_of

EXAMPLES = """examples:
  python -m benchmarks.sound.onnx_backend                 all, two minutes; writes the table
  python -m benchmarks.sound.onnx_backend --only resize   cases whose names hold this; writes nothing
"""
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
SHARE = 0.97
"""Of the cases counted, how many must pass."""
ABSOLUTE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-3}
"""What the package's own runner allows beside the case's share, at least."""
EXCLUDED: dict[str, str] = {
    "*bernoulli*": "draws random numbers",
    "test_training_dropout*": "trains: draws random numbers",
    "test_tfidfvectorizer*": "counts words of a text",
    "test_strnorm*": "handles text",
    "*FLOAT4E2M1*": "takes a dtype of 4 bits that torch cannot calculate with",
    "*float4e2m1*": "takes a dtype of 4 bits that torch cannot calculate with",
    "*FLOAT8E8M0*": "takes a dtype of exponents alone that torch cannot calculate with",
    "*FLOAT6*": "takes a dtype of 6 bits that torch does not have",
    "test_optional_get_element_optional*": "takes an input that is no tensor",
    "test_flexattention*": "is of a domain that is a preview",
    "test_adagrad*": "trains",
    "test_adam*": "trains",
    "test_momentum*": "trains",
    "test_nesterov*": "trains",
    "test_gradient*": "trains",
}
"""Cases that mean nothing here, by pattern of their names, and why."""


@dataclass(frozen=True)
class Case:
    """A model, and what it makes of some inputs."""

    name: str
    kind: str
    model: onnx.ModelProto
    sets: list[tuple[list[Any], list[Any]]]
    relative: float
    absolute: float


@dataclass(frozen=True)
class Outcome:
    """What became of a case: how it passed, or why it did not."""

    case: str
    kind: str
    how: str
    reason: str = ""


def cases(only: str) -> Iterator[Case]:
    """All cases whose names hold this."""
    from onnx.backend.test.loader import load_model_tests

    for kind in KINDS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about the infinities that are tested
            found = load_model_tests(kind=kind)
        for case in found:
            if only in case.name:
                if case.model is not None:
                    model, sets = case.model, case.data_sets
                else:
                    model, sets = _stored(Path(case.model_dir))
                yield Case(case.name, kind, model, sets, case.rtol, case.atol)


def _stored(folder: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    def read(path: Path) -> Any:
        proto = TensorProto()
        try:
            proto.ParseFromString(path.read_bytes())
        except Exception:  # a sequence or an optional
            return None
        return proto

    def ordered(part: Path, kind: str) -> list[Any]:
        count = len(list(part.glob(f"{kind}_*.pb")))
        return [read(part / f"{kind}_{number}.pb") for number in range(count)]

    parts = sorted(folder.glob("test_data_set_*"))
    return onnx.load(folder / "model.onnx"), [(ordered(part, "input"), ordered(part, "output")) for part in parts]


def tensor(value: Any, declared: int = 0) -> Any:
    """What the package gives as torch has it."""
    if isinstance(value, TensorProto):
        return tensor_of(value)
    if isinstance(value, list) or value is None:
        return [tensor(one) for one in value] if isinstance(value, list) else None
    array = np.asarray(value)
    number = declared or onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    dtype = dtype_of(number, "An input")
    array = array if dtype in BITS or array.dtype.kind != "V" else array.astype(np.float32)
    return as_tensor(np.array(array), dtype, number)


def returns_floats(model: onnx.ModelProto) -> bool:
    """Whether an output is a tensor of floats."""
    return any(value.type.tensor_type.elem_type in FLOATS for value in model.graph.output)


def constants_of(case: Case) -> dict[str, Any]:
    """Inputs of rank 0 and 1 that are not all there is to the model: what may decide shapes and courses."""
    given = dict(zip([value.name for value in case.model.graph.input], case.sets[0][0], strict=False))
    arrays = {n: numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for n, v in given.items()}
    small = {name: np.asarray(v) for name, v in arrays.items() if isinstance(v, np.ndarray | np.generic | int | float)}
    whole = {name: v for name, v in small.items() if v.ndim <= 1 and v.dtype.kind in "iub"}
    floats = {name: v for name, v in small.items() if v.ndim <= 1 and v.dtype.kind == "f"}
    return whole if len(floats) == len(given) or not _deciding(case) else {**whole, **floats}


def _deciding(case: Case) -> bool:
    """Whether floats decide sizes in it."""
    return any(node.op_type in ("Resize", "Upsample", "Range", "Loop") for node in case.model.graph.node)


def run(case: Case) -> Outcome:
    """Ask the three questions of a case."""
    stated = next((why for pattern, why in EXCLUDED.items() if fnmatchcase(case.name, pattern)), None)
    if stated is not None:
        return Outcome(case.name, case.kind, "excluded", stated)
    first: Exception | None = None
    for constants in ({}, constants_of(case)):
        if first is not None and (not constants or len(case.sets) > 1):
            continue
        try:
            _ask(case, constants)
            return Outcome(case.name, case.kind, "with constants" if constants else "passed")
        except Exception as error:  # whatever it is, the case did not pass
            first = first or error
    assert first is not None
    return Outcome(case.name, case.kind, "failed", reason_of(first))


def _ask(case: Case, constants: dict[str, Any]) -> None:
    module = lrp.from_onnx(case.model, constants)
    declared = {value.name: value for value in case.model.graph.input}
    inputs: tuple[Any, ...] = ()
    for given, expected in case.sets:
        named = dict(zip(declared, given, strict=False))
        inputs = tuple(
            tensor(named[name], declared[name].type.tensor_type.elem_type)
            for name in module.input_names
            if name in named
        )
        with torch.no_grad():
            found = module(*(one.clone() for one in inputs))
        found = found if isinstance(found, tuple) else (found,)
        for value, got, want in zip(case.model.graph.output, found, expected, strict=True):
            if value.type.tensor_type.elem_type in FLOATS:
                _compare(got, tensor(want, value.type.tensor_type.elem_type), case)
    with torch.no_grad():
        torch.export.export(module, tuple(one.clone() for one in inputs))


def _compare(got: torch.Tensor, want: torch.Tensor, case: Case) -> None:
    if got.shape != want.shape or got.dtype != want.dtype:
        raise AssertionError(f"is {got.dtype} {list(got.shape)}, not {want.dtype} {list(want.shape)}")
    relative = max(case.relative, float(torch.finfo(want.dtype).eps))
    absolute = max(case.absolute, ABSOLUTE.get(want.dtype, 0.0))
    a, b = got.double(), want.double()
    close = torch.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
    if not bool(close.all()):
        wrong = ~close
        off = float(((a - b)[wrong].abs() / b[wrong].abs().clamp(min=1e-30)).max())
        raise AssertionError(
            f"{int(wrong.sum())} of {close.numel()} elements differ, by {off:.0e} of themselves at most"
        )


def document(outcomes: list[Outcome], silent: int) -> str:
    """The table."""
    counts = Counter(one.how for one in outcomes)
    counted = [one for one in outcomes if one.how != "excluded"]
    passed = sum(one.how != "failed" for one in counted)
    lines = [
        "# ONNX's own tests of its operators",
        "",
        f"`python -m benchmarks.sound.onnx_backend`: onnx {onnx.__version__}, torch {torch.__version__}. Of "
        f"{len(outcomes) + silent:,} cases {silent:,} return no floats. Of the {len(counted):,} that are counted "
        f"{passed:,} pass ({passed / max(len(counted), 1):.1%}): the outputs are the stated ones, and torch.export "
        f"takes the module; {counts['with constants']:,} of these with inputs that decide shapes or courses as "
        "constants.",
        "",
        "| cases | counted | passed | with constants | failed |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind in KINDS:
        own = Counter(one.how for one in counted if one.kind == kind)
        numbers = (own.total(), own["passed"], own["with constants"], own["failed"])
        lines.append(f"| {kind} | {' | '.join(f'{number:,}' for number in numbers)} |")
    lines += ["", "## Failed", "", "| case | why |", "|---|---|"]
    lines += [f"| {one.case} | {_cell(one.reason)} |" for one in counted if one.how == "failed"]
    lines += ["", "## Not counted", "", "| why | cases |", "|---|---:|"]
    reasons = Counter(one.reason for one in outcomes if one.how == "excluded")
    lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose names hold this")
    arguments = parser.parse_args()
    on = reporting.console()
    outcomes: list[Outcome] = []
    silent = 0
    with reporting.progress(on) as bar:
        task = bar.add_task("load", total=None)
        found = list(cases(arguments.only))
        bar.update(task, total=len(found))
        for case in found:
            bar.update(task, description=case.name[:60], advance=1)
            if returns_floats(case.model):
                with quiet(output=True):
                    outcomes.append(run(case))
            else:
                silent += 1
    counted = [one for one in outcomes if one.how != "excluded"]
    for one in counted:
        if one.how == "failed":
            on.print(f"{one.case}: {one.reason}", markup=False)
    passed = sum(one.how != "failed" for one in counted)
    on.print(f"{passed} of {len(counted)} pass ({passed / max(len(counted), 1):.1%})")
    if not arguments.only:
        reporting.write(RESULTS / "onnx_backend.md", document(outcomes, silent))
    return int(passed < SHARE * len(counted))


if __name__ == "__main__":
    sys.exit(main())
