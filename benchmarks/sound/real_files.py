"""Real ONNX files out of packages: do they load, is the forward onnxruntime's, do the books close, what is seen?

Each file is compiled with no more than its path (of a detector of speech the sampling rate is held constant, on which
it branches), and explained on inputs that its package would give it: a photograph, somebody speaking, a sentence. The
pictures and the tables of tokens that are looked at by eye lie in build/real_files. The packages are fetched by pip
without what they require, and unpacked into build/packages.

The table is results/real_files.md. Exit status 1: a file that does not compile, or is off.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.networks.pretrained.packages import unpacked
from benchmarks.sound import RESULTS
from benchmarks.sound.packaged_files import FILES, FOLDER, File
from lrp_compiler.errors import LrpError, LrpWarning
from lrp_compiler.passes.graph import Float64
from lrp_compiler.runtime import OnnxExplainer

EXAMPLES = """examples:
  python -m benchmarks.sound.real_files                  all; writes the table
  python -m benchmarks.sound.real_files --only silero    files whose names hold this; the others' rows stay
"""
THREADS, REPEATS = 2, 5
FORWARD = 1e-4
"""Of the largest output; of a quantised file one that rounds otherwise is a step off, which is said."""
QUANTISED = 0.05
BOOKS = 1e-6
"""Of Σ|R|, in float64."""


@dataclass
class Row:
    """What became of a file."""

    name: str
    what: str
    composite: str = ""
    nodes: int = 0
    sizes: str = ""
    compiling: float = float("nan")
    forward: float = float("nan")
    runtime: float = float("nan")
    single: float = float("nan")
    books: float = float("nan")
    balance: str = ""
    milliseconds: float = float("nan")
    plain: float = float("nan")
    seen: str = ""
    failed: str = ""
    quantised: bool = False

    @property
    def sound(self) -> bool:
        """Whether nothing is off by more than it may be."""
        return not self.failed and self.forward <= (QUANTISED if self.quantised else FORWARD) and self.books <= BOOKS


def off(found: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest value."""
    got, want = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(got.reshape(want.shape) - want).max() / max(float(np.abs(want).max()), 1e-30))


def rounding(explainer: lrp.Explainer, tensors: list[torch.Tensor]) -> float:
    """What float32 alone makes of the relevance: in torch, beside the same graph in float64."""
    first = len(explainer.about.outputs)
    with torch.no_grad():
        exact = Float64(explainer.module).run(*tensors)[first:]
        return max(off(a, b) for a, b in zip(explainer.module(*tensors)[first:], exact, strict=True))


def median(call: Callable[[], Any]) -> float:
    """Milliseconds of a call."""
    call()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1000)


def ask(file: File) -> Row:
    """All questions of one file."""
    path = unpacked(file.package) / file.path
    row = Row(file.name, file.what, file.composite, quantised=file.quantised)
    row.nodes = len(onnx.load(path, load_external_data=False).graph.node)
    inputs = file.inputs()
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LrpWarning)
        try:
            module = lrp.from_onnx(path, file.constants)
            given = (tuple(tensors),) if file.example else ()
            explainer = lrp.compile(module, *given, composite=file.composite, target=file.target)
        except LrpError as error:
            row.failed = str(error).replace(repr(str(path)), "the file")
            return row
    row.compiling = time.perf_counter() - start
    row.sizes = ", ".join(
        f"{one.name} [{', '.join(map(str, one.shape))}]" for one in explainer.about.inputs if one.name in inputs
    )
    found = explainer(*tensors)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options)
    feeds = {**inputs, **{name: np.array(value) for name, value in file.constants.items()}}
    feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
    expected = session.run(module.output_names, feeds)
    returned = found.output if isinstance(found.output, tuple | list) else (found.output,)
    row.forward = max(off(a, b) for a, b in zip(returned, expected, strict=True) if _is_float(b))
    row.plain = median(lambda: session.run(None, feeds))
    out = FOLDER / f"{file.name}.lrp.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer.to_onnx(out)
    with OnnxExplainer(out, session_options=options) as runtime:
        again = runtime(*inputs.values())
        row.runtime = max(off(again.relevance[name], value.numpy()) for name, value in found.relevance.items())
        row.milliseconds = median(lambda: runtime(*inputs.values()))
    row.single = rounding(explainer, tensors)
    books = explainer.audit(*tensors)
    row.books = abs(books.error) / max(books.magnitude, 1e-30)
    shares = {"inputs": sum(books.inputs.values()), **books.absorbed}
    first = sorted(shares.items(), key=lambda share: -abs(share[1]))[:3]
    row.balance = f"{books.seed:.3g} = {' '.join(f'{value:+.3g} {name}' for name, value in first)} …"
    row.seen = file.draw(found, inputs, file.name) if file.draw else ""
    return row


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def number(value: float, form: str = ".0e") -> str:
    """A figure in a table."""
    return "–" if value != value else "0" if value == 0 else f"{value:{form}}"


def document(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "# Real files out of packages",
        "",
        "`python -m benchmarks.sound.real_files`: ONNX files as their packages ship them, compiled from their paths. "
        "*forward*: the largest difference of an output from onnxruntime's own run of the file, as a share of the "
        "largest value. *onnxruntime*: the same of the `.lrp.onnx` file's relevance beside torch's, both in float32. "
        "*float32*: the same of torch's own, beside the same graph in float64: where two elements of a max pool's "
        "window are next to equal (dnsmos-p808: 0.6947690 and 0.6947685, in a pause), rounding decides which of them "
        "is the largest, and all relevance goes to that one. "
        "*books*: what is not accounted for, as a share of Σ|R|, in float64. *s*: of compiling. Milliseconds of the "
        f"explanation and of the file itself are medians of {REPEATS} runs in onnxruntime, batch 1, {THREADS} threads; "
        "each row is of one run, not all of the same, on a machine that did other things besides.",
        "",
        f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}.",
        "",
        "| file | network | nodes | composite | inputs | s | forward | onnxruntime | float32 | books | ms "
        "| the file, ms |",
        "|---|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = (row.name, row.what, str(row.nodes), row.composite, row.sizes, number(row.compiling, ".0f"))
        figures = (number(row.forward), number(row.runtime), number(row.single), number(row.books))
        times = (number(row.milliseconds, ".1f"), number(row.plain, ".1f"))
        lines.append(f"| {' | '.join((*cells, *figures, *times))} |")
    lines += ["", "## Where the explained value went", "", "| file | logit = … | seen |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.balance} | {row.seen} |" for row in rows if row.balance]
    failed = [row for row in rows if row.failed]
    if failed:
        lines += ["", "## Not compiled", "", "| file | what is said |", "|---|---|"]
        lines += [f"| {row.name} | {row.failed} |" for row in failed]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose names hold this")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    on = reporting.console()
    kept = FOLDER / "rows.json"
    earlier = json.loads(kept.read_text()) if arguments.only and kept.exists() else []
    rows = {row["name"]: Row(**row) for row in earlier}
    for file in FILES:
        if arguments.only not in file.name:
            continue
        row = rows[file.name] = ask(file)
        numbers = " ".join(f"{number(one):>6}" for one in (row.forward, row.runtime, row.books))
        on.print(
            f"{'ok ' if row.sound else 'OFF'} {row.name:20} {numbers} {number(row.compiling, '.0f')} s; {row.balance} "
            f"{row.seen} {row.failed}",
            markup=False,
        )
        kept.write_text(json.dumps([vars(one) for one in rows.values()], indent=1))
    ordered = [rows[file.name] for file in FILES if file.name in rows]
    if len(ordered) == len(FILES):
        reporting.write(RESULTS / "real_files.md", document(ordered))
    return int(not all(row.sound for row in ordered))


if __name__ == "__main__":
    sys.exit(main())
