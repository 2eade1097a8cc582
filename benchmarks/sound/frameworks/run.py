"""ONNX files of other frameworks: is the forward theirs, and is the relevance what their own arithmetic says?

Each framework runs in an environment of its own (build/frameworks), made where there is none, and writes small networks
with fixed seeds: an ONNX file, inputs, what it makes of them, and the relevance of one class, worked out with its own
tools (`w · x` by hand, gradient × input; where rules hold gates fixed, the gradient with these held fixed). Then each
file is compiled here with no more than its path, and run on those inputs in torch and, as an `.lrp.onnx` file, in
onnxruntime. The batch is not the one that the compiler saw.

The table is results/frameworks.md. Exit status 1: a forward, relevance or the books are off by more than rounding.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import ROOT
from benchmarks.base.processes import command, environment
from benchmarks.sound import RESULTS
from benchmarks.sound.frameworks.cases import read
from benchmarks.sound.frameworks.environments import FOLDER, PACKAGES, python
from lrp_compiler.errors import LrpError, LrpWarning
from lrp_compiler.runtime import OnnxExplainer

EXAMPLES = """examples:
  python -m benchmarks.sound.frameworks.run                  all: the environments take a few minutes and 4 GB
  python -m benchmarks.sound.frameworks.run scikit-learn     one framework
  python -m benchmarks.sound.frameworks.run --made           the files that were made before
  python -m benchmarks.sound.frameworks.run --keep           the smallest files go to tests/fixtures/frameworks as well
"""
FILES = FOLDER / "files"
FIXTURES = ROOT / "tests" / "fixtures" / "frameworks"
SMALL = 24_000
"""Bytes of an ONNX file, its arrays included, that is kept for the tests."""
ROUNDING = 2e-5
"""Of the largest value: float32 in two programs, sums in another order."""
BOOKS = 1e-9
"""Of Σ|R|, in float64."""


@dataclass
class Row:
    """What became of a file."""

    framework: str
    name: str
    what: str = ""
    oracle: str = ""
    composite: str = ""
    tool: str = ""
    forward: float = float("nan")
    relevance: float = float("nan")
    runtime: float = float("nan")
    books: float = float("nan")
    seconds: float = 0.0
    sizes: str = ""
    said: list[str] = field(default_factory=list)
    failed: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing is off by more than rounding."""
        near = all(value <= ROUNDING for value in (self.forward, self.relevance, self.runtime))  # nan is not
        return not self.failed and near and self.books <= BOOKS


def make(framework: str) -> None:
    """Let a framework write its files."""
    interpreter = python(framework)
    module = f"benchmarks.sound.frameworks.of_{framework.replace('-', '_')}"
    where = environment(interpreter, CUDA_VISIBLE_DEVICES="", TF_CPP_MIN_LOG_LEVEL="3", JAX_PLATFORMS="cpu")
    subprocess.run(command(module, FILES / framework, python=interpreter, quiet=True), check=True, env=where, cwd=ROOT)


def off(found: Any, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    got = np.asarray(found, dtype=np.float64)
    want = expected.astype(np.float64).reshape(got.shape)
    return float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-30))


def ask(framework: str, path: Path) -> Row:
    """All questions of one file."""
    said, inputs, output, relevance = read(path)
    row = Row(framework, path.stem, said["what"], said["oracle"], said["composite"], said["tool"])
    composite = lrp.composites.epsilon(epsilon=1e-9) if said["composite"] == "epsilon" else said["composite"]
    target = lrp.Target(said["target"], output=said["output_name"])
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", LrpWarning)
        try:
            explainer = lrp.compile(path, composite=composite, target=target, observe=said["observe"])
        except LrpError as error:
            row.failed = str(error)
            return row
    row.said = [str(one.message) for one in heard if isinstance(one.message, LrpWarning)]
    row.seconds = time.perf_counter() - start
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    row.sizes = ", ".join(f"{one.name} {list(one.shape)}" for one in explainer.about.inputs)
    try:
        found = explainer(*tensors.values())
        returned = found.output if isinstance(found.output, tuple | list) else (found.output,)
        row.forward = off(next(value for value in returned if value.is_floating_point()), output)
        row.relevance = max(off(_of(found.relevance, name), array) for name, array in relevance.items())
        file = FILES / framework / f"{path.stem}.lrp.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explainer.to_onnx(file)
        with OnnxExplainer(file) as runtime:
            again = runtime(*inputs.values())
            row.runtime = max(off(again.relevance[name], value.numpy()) for name, value in found.relevance.items())
        books = explainer.audit(*tensors.values())
        row.books = abs(books.error) / max(books.magnitude, 1e-30)
    except LrpError as error:
        row.failed = str(error)
    return row


def _of(values: dict[str, Any], name: str) -> np.ndarray:
    """A value by its name, or by the pattern that it was observed by."""
    found = values.get(name)
    if found is None:
        found = next(value for key, value in values.items() if name in key)
    array: np.ndarray = found.numpy()
    return array


def number(value: float) -> str:
    """A difference in a table."""
    return "–" if value != value else "0" if value == 0 else f"{value:.0e}"


def document(rows: list[Row]) -> str:
    """The table."""
    tools = dict.fromkeys(row.tool for row in rows if row.tool)
    lines = [
        "# Files of other frameworks",
        "",
        "`python -m benchmarks.sound.frameworks.run`: each framework in its own environment writes an ONNX file, what "
        "it makes of seven rows, and the relevance of one class by its own arithmetic; the explainer is compiled from "
        "the file's path alone. *forward*, *relevance*: the largest difference from the framework's, as a share of the "
        "largest value, in float32. *onnxruntime*: the same of the `.lrp.onnx` file's relevance beside torch's. "
        "*books*: what is not accounted for, as a share of Σ|R|, in float64. The ε rules take ε = 1e-9.",
        "",
        f"{'; '.join(tools)}. Here: torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime "
        f"{onnxruntime.__version__}.",
        "",
        "| framework | network | composite | compared with | forward | relevance | onnxruntime | books | inputs | s |",
        "|---|---|---|---|---:|---:|---:|---:|---|---:|",
    ]
    for row in rows:
        numbers = " | ".join(map(number, (row.forward, row.relevance, row.runtime, row.books)))
        lines.append(
            f"| {row.framework} | {row.what} | {row.composite} | {row.oracle} | {numbers} | {row.sizes} | "
            f"{row.seconds:.1f} |"
        )
    failed = [row for row in rows if row.failed]
    if failed:
        lines += ["", "## Not compiled", "", "| file | what is said |", "|---|---|"]
        lines += [f"| {row.framework}: {row.what or row.name} | {row.failed} |" for row in failed]
    heard = {sentence.replace(str(ROOT), "").replace(str(FILES), "") for row in rows for sentence in row.said}
    if heard:
        lines += ["", "## What is said while they are compiled", ""]
        lines += [f"- {sentence}" for sentence in sorted(heard)]
    return "\n".join(lines) + "\n"


def keep(rows: list[Row]) -> None:
    """Copy the small files that are sound to where the tests read them."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for row in rows:
        parts = [FILES / row.framework / f"{row.name}.{kind}" for kind in ("onnx", "npz", "json")]
        if row.sound and sum(part.stat().st_size for part in parts) <= SMALL:
            for part in parts:
                shutil.copy(part, FIXTURES / f"{row.framework}_{part.name}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("frameworks", nargs="*", choices=[*PACKAGES, []], metavar="FRAMEWORK", help=", ".join(PACKAGES))
    parser.add_argument("--made", action="store_true", help="take the files that lie in build/frameworks")
    parser.add_argument("--keep", action="store_true", help="copy the smallest to tests/fixtures/frameworks")
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose names hold this; writes no table")
    arguments = parser.parse_args()
    chosen = arguments.frameworks or list(PACKAGES)
    on = reporting.console()
    rows: list[Row] = []
    for framework in chosen:
        if not arguments.made:
            on.print(f"{framework}: making files", markup=False)
            shutil.rmtree(FILES / framework, ignore_errors=True)
            make(framework)
        for path in sorted((FILES / framework).glob("*.onnx")):
            if path.name.endswith(".lrp.onnx") or arguments.only not in path.name:
                continue
            row = ask(framework, path)
            rows.append(row)
            numbers = " ".join(f"{number(one):>6}" for one in (row.forward, row.relevance, row.runtime, row.books))
            on.print(f"{'ok ' if row.sound else 'OFF'} {path.stem:24} {numbers} {row.failed}", markup=False)
    if not arguments.only and chosen == list(PACKAGES):
        reporting.write(RESULTS / "frameworks.md", document(rows))
    if arguments.keep:
        keep(rows)
    return int(not all(row.sound for row in rows))


if __name__ == "__main__":
    sys.exit(main())
